"""How good plans are in so many milliseconds, and whether they keep to them: true sequential ticks, warm.

An engine under sustained load (`_ticks`) is planned for every 100 ms with the whole queue in the program; time counts
from snapshot to plan, arrays included. Between two ticks the planner has 5 ms of CPU to itself. Of every few ticks the
plan's gap is (cost − bound) / bound, bound the linear relaxation of the program with nothing left out, solved exactly
by HiGHS (`solver.checks.lp_relaxation`); age so far is sunk and in neither.

gap5ms_R_W_K_p50, _p90      R running at the start, W waiting, K buckets; %, over two families of lengths; also 10 ms
tick_overrun_p999           time used / budget, over all ticks
plan_vs_greedy_worst        cost of the plan / cost of the better of two greedies on the same program
program_share               share of the plans that are the program's
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from experiments.bench._ticks import Ticks
from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.solver.checks.lp_relaxation import relax
from kvhorizon.solver.heuristic.of_a_snapshot import admissions
from kvhorizon.solver.heuristic.params import GREEDY, Knob
from kvhorizon.solver.program.search.construct import by_key, cost_of, greedy_choices
from kvhorizon.solver.program.search.dual import Ascent
from kvhorizon.solver.program.search.planner import Budget, Planner, PlannerSettings, Settings, Solved
from kvhorizon.state import Snapshot, Source

SEED = 0
SIZES = ((64, 64, 8), (256, 512, 16), (256, 1024, 24), (512, 2000, 32))
FAMILIES = ("chat", "mixed")
BUDGETS_MS = (5, 10)
OFF_TICK_S = 0.005
EVICTABLE = 16  # running requests that a plan may evict
WARM_TICKS, TICKS, CHECKED = 24, 64, 4  # before measuring; measured; of which every so manieth is checked
LIMITS = {  # % p50, p90
    (5, 64): ("<=0.5", "<=2.5"),
    (5, 512): ("<=0.5", "<=2"),
    (5, 1024): ("<=1.5", "<=3"),
    (5, 2000): ("<=2", "<=4"),
    (10, 64): ("<=0.4", "<=2"),
    (10, 512): ("<=0.3", "<=1"),
    (10, 1024): ("<=0.7", "<=2"),
    (10, 2000): ("<=1", "<=2"),
}
Clock = Callable[[], float]


@dataclass
class Seen:
    """What one or more runs showed, a value per tick or per checked tick."""

    gap: list[float] = field(default_factory=list)  # %
    dual_gap: list[float] = field(default_factory=list)  # %, of the planner's own bound below the relaxation
    to_greedy: list[float] = field(default_factory=list)
    overrun: list[float] = field(default_factory=list)
    by_program: list[bool] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        """Take in another run."""
        for name in self.__dataclass_fields__:
            getattr(self, name).extend(getattr(other, name))


def settings_of(size: tuple[int, int, int]) -> Settings:
    """The program of a size, with the whole queue in it."""
    return Settings(buckets=size[2], points=8, candidates=size[1], max_evictions=EVICTABLE)


def check(solved: Solved, snapshot: Snapshot, seen: Seen) -> None:
    """Compare a plan with the relaxation and with the greedies of its program."""
    problem, cost = solved.problem, solved.improved.objective
    rule = admissions(snapshot, GREEDY[Knob.BALANCED], resolve_curves(snapshot))
    greedy = min(cost_of(problem, choice) for choice in greedy_choices(problem, by_key(problem), rule))
    seen.to_greedy.append(cost / greedy)
    if solved.improved.duals is None:
        return
    ascent = Ascent(problem, solved.improved.duals.prices)
    ascent.run(200, cost)
    bound = relax(problem.tables, ascent.bound().prices.rows).bound
    seen.gap.append(100.0 * (cost - bound) / bound)
    seen.dual_gap.append(100.0 * (bound - solved.improved.bound) / bound)


def run(seed: int, size: tuple[int, int, int], family: str, budget_s: float, ticks: int, clock: Clock) -> Seen:
    """One engine, planned for tick after tick."""
    engine, seen = Ticks(seed, *size[:2], family), Seen()
    planner = Planner(PlannerSettings(program=settings_of(size)), clock)
    planner.plan(engine.snapshot(), Budget(work=200))  # compiles what is not compiled yet, before anything is timed
    for tick in range(WARM_TICKS + ticks):
        snapshot = engine.snapshot()
        began_s = clock()
        solved = planner.solve(snapshot, Budget(seconds=budget_s))
        used_s = clock() - began_s
        if tick >= WARM_TICKS:
            seen.overrun.append(used_s / budget_s)
            seen.by_program.append(solved.plan.source == Source.PROGRAM)
            if tick % CHECKED == 0:
                check(solved, snapshot, seen)
        planner.refine(OFF_TICK_S)
        engine.advance(solved.plan)
    return seen


def measure_by(clock: Clock, sizes: tuple[tuple[int, int, int], ...], ticks: int) -> tuple[Figures, Targets]:
    """All sizes, families and budgets by a clock."""
    gc.collect()
    gc.freeze()  # what is there stays; planning makes no cycles worth looking for
    every, figures, targets = Seen(), {}, {}
    for budget_ms in BUDGETS_MS:
        for size in sizes:
            seen = Seen()
            for number, family in enumerate(FAMILIES):
                seen.add(run(SEED + number, size, family, budget_ms / 1e3, ticks, clock))
            every.add(seen)
            name = f"gap{budget_ms}ms_{size[0]}_{size[1]}_{size[2]}"
            for share, limit in zip((50, 90), LIMITS[budget_ms, size[1]], strict=True):
                targets[f"{name}_p{share}"] = target(float(np.percentile(seen.gap, share)), limit)
            figures[f"{name}_bound_below_relaxation_p50"] = float(np.median(seen.dual_gap))
            figures[f"{name}_time_used_p50"] = float(np.median(seen.overrun))
            figures[f"{name}_program_share"] = float(np.mean(seen.by_program))
    targets["tick_overrun_p999"] = target(float(np.quantile(every.overrun, 0.999)), "<=1.2")
    targets["plan_vs_greedy_worst"] = target(max(every.to_greedy), "<=1")
    targets["program_share"] = target(float(np.mean(every.by_program)), ">=0.99")
    return {"ticks": len(every.overrun), "checked": len(every.gap), **figures}, targets


def measure(options: Options) -> tuple[Figures, Targets]:
    """By the wall clock, as the service does."""
    return measure_by(time.perf_counter, SIZES[:2] if options.quick else SIZES, 16 if options.quick else TICKS)


if __name__ == "__main__":
    main("bench_planner", SEED, measure)
