"""Sequential ticks with drift, arrivals, finishes and preemptions: feasible plans, right rows, the same results."""

import numpy as np
import pytest

from experiments.bench._ticks import Ticks
from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.solver.checks.verify import objective, plan_violations, violations
from kvhorizon.solver.heuristic.of_a_snapshot import admissions
from kvhorizon.solver.heuristic.params import GREEDY, Knob
from kvhorizon.solver.program.build import Builder
from kvhorizon.solver.program.search.budget import FINISH, Budget, Pace, Spending
from kvhorizon.solver.program.search.construct import by_key, cost_of, greedy_choices
from kvhorizon.solver.program.search.planner import Planner, PlannerSettings, Settings
from kvhorizon.state import Source

SETTINGS = Settings(buckets=8, points=8, max_evictions=6)


def planner(clock=lambda: 0.0) -> Planner:
    return Planner(PlannerSettings(program=SETTINGS), clock)


@pytest.mark.parametrize("family", ["chat", "mixed"])
def test_every_tick_is_planned_well(family: str) -> None:
    """Feasible in the program and in the engine; proven bounds below; twice the same; gaps small once warm."""
    engine, first, second, gaps = Ticks(7, 24, 48, family), planner(), planner(), []
    for _ in range(25):
        snapshot = engine.snapshot()
        solved, again = (p.solve(snapshot, Budget(work=120)) for p in (first, second))
        plan, problem = solved.plan, solved.problem
        assert plan_violations(snapshot, plan) == []
        assert violations(problem, solved.improved.choice) == []
        assert objective(problem, solved.improved.choice) == pytest.approx(plan.objective)
        assert plan.bound <= plan.objective * (1.0 + 1e-12)
        assert (plan.objective, plan.bound) == (again.plan.objective, again.plan.bound)
        np.testing.assert_array_equal(plan.admissions, again.plan.admissions)
        np.testing.assert_array_equal(plan.block_prices, again.plan.block_prices)
        gaps.append(plan.gap)
        engine.advance(plan)
    assert np.median(gaps[5:]) < 0.05


def test_rows_kept_are_rows_computed() -> None:
    """After many ticks, forgetting all rows and building again gives the same program to the last bit."""
    engine, builder, follower = Ticks(3, 24, 48, "mixed"), Builder(SETTINGS), planner()
    for tick in range(20):
        snapshot = engine.snapshot()
        kept = builder.build(snapshot).tables
        kept = kept._replace(blocks=kept.blocks.copy(), sequences=kept.sequences.copy())
        if tick % 5 == 4:
            builder.frame.forget()
            there = np.isfinite(kept.cost).any(axis=1)
            for name, was, now in zip(kept._fields, kept, builder.build(snapshot).tables, strict=True):
                rows = there if len(was) == len(there) else slice(None)
                np.testing.assert_array_equal(was[rows], now[rows], err_msg=name)
        engine.advance(follower.plan(snapshot, Budget(work=60)))


def test_refining_between_ticks_keeps_plans_feasible() -> None:
    """By the clock, each look at which takes 20 µs: deterministic, and time passes only as the planner looks."""
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return looks * 2e-5

    engine, ticking = Ticks(5, 24, 48, "chat"), planner(clock)
    for _ in range(12):
        snapshot = engine.snapshot()
        solved = ticking.solve(snapshot, Budget(seconds=0.01))
        assert solved.plan.source == Source.PROGRAM
        assert plan_violations(snapshot, solved.plan) == []
        assert violations(solved.problem, solved.improved.choice) == []
        ticking.refine(0.002)
        engine.advance(solved.plan)


def test_a_tiny_budget_gives_the_greedy_and_recovers() -> None:
    """A clock that ran out at once leaves the greedy's plan; the next tick with time is the program's."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1e-3
        return now[0]

    engine, ticking = Ticks(5, 24, 48, "chat"), planner(clock)
    assert ticking.plan(engine.snapshot(), Budget(seconds=0.001)).source == Source.GREEDY
    assert ticking.plan(engine.snapshot(), Budget(seconds=1.0)).source == Source.PROGRAM


def test_without_time_to_repair_no_plan_is_worse_than_the_greedies() -> None:
    """Prices alone, plan after plan: what was wanted long ago is no excuse."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1e-3
        return now[0]

    engine, ticking = Ticks(5, 24, 48, "mixed"), planner(clock)
    for _ in range(30):
        snapshot = engine.snapshot()
        solved = ticking.solve(snapshot, Budget(seconds=0.004))
        ruled = admissions(snapshot, GREEDY[Knob.BALANCED], resolve_curves(snapshot))
        choices = greedy_choices(solved.problem, by_key(solved.problem), ruled)
        assert solved.improved.objective <= min(cost_of(solved.problem, choice) for choice in choices)
        engine.advance(solved.plan)


def test_an_end_that_was_slow_once_leaves_the_next_plan_its_time() -> None:
    pace = Pace()
    pace.measured(FINISH, 2.0)  # something had to be compiled
    left_s = Spending(Budget(seconds=0.005), lambda: 0.0, pace).left_s
    assert left_s is not None
    assert 0.0035 < left_s < 0.005
