"""From a snapshot to a plan within a budget: the greedy at once, then the program, as far as the budget goes.

1. Greedy: two incumbents, the rule-based greedy's admissions and an insertion by the greedy's key.
2. Bound: Lagrangian prices, kept from the last plan, improved by subgradient steps; they prove a lower bound.
3. Repair: insertion at true overflow prices.
4. Core: HiGHS on the requests nearest to break-even.

The plan is the program's as soon as 2 and 3 ended within the budget, else the greedy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.models.resolve import resolve_curves
from kvhorizon.models.survival import Curves
from kvhorizon.solver import core
from kvhorizon.solver.dual import Bound, Prices, ascend, no_prices
from kvhorizon.solver.greedy import GREEDY, Knob
from kvhorizon.solver.insert import insert, running_first
from kvhorizon.solver.problem import NEVER, Problem, Settings, build
from kvhorizon.solver.rule_plan import admissions, victims
from kvhorizon.solver.verify import objective, violations
from kvhorizon.state import Plan, Snapshot, Source

IntArray = NDArray[np.int64]
FULL_WORK = 100  # work units at which every part runs to its usual end


@dataclass(frozen=True, slots=True)
class Budget:
    """Wall-clock seconds, or work units (the same plan on every machine); exactly one is given."""

    seconds: float | None = None
    work: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.work is None):
            raise InputError("budget", f"{self.seconds} s, {self.work} units", "needs either seconds or work units")
        if self.seconds is not None and not 0.0 < self.seconds < 60.0:
            raise InputError("budget", self.seconds, "must be > 0 and < 60 seconds")
        if self.work is not None and not 0 <= self.work <= 1_000_000:
            raise InputError("budget", self.work, "must be 0..1000000 work units")


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """The program's model, the greedy's knob, and how far each part of the search goes."""

    program: Settings = field(default_factory=Settings)
    knob: Knob = Knob.BALANCED
    iterations: int = 30
    core_requests: int = 24
    core_nodes: int = 50
    good_gap: float = 0.005  # (objective − bound) / objective at which the core is left alone


@dataclass(frozen=True, slots=True)
class Improved:
    """The best choice found, and what is proven about it."""

    choice: IntArray  # (N,)
    objective: float  # weighted seconds
    bound: Bound | None
    by_program: bool
    work: int


class Deadline:
    """Counts work units, or watches the clock."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self._budget, self._clock = budget, clock
        self._end_s = clock() + (budget.seconds or 0.0)
        self.work = 0

    def left(self, units: int) -> bool:
        """Whether `units` more may be spent; counts them if so."""
        if self._budget.work is not None and self.work + units > self._budget.work:
            return False
        if self._budget.seconds is not None and self._clock() >= self._end_s:
            return False
        self.work += units
        return True

    def core_limits(self, nodes: int) -> core.Limits:
        """What HiGHS may use: nodes always, and the seconds left where the budget is in seconds."""
        seconds = None if self._budget.seconds is None else max(self._end_s - self._clock(), 1e-3)
        return core.Limits(nodes=nodes, seconds=seconds)

    @property
    def over(self) -> bool:
        """Whether the wall-clock budget has ended; answers after that are late."""
        return self._budget.seconds is not None and self._clock() > self._end_s


def improve(
    problem: Problem, incumbent: IntArray, prices: Prices, settings: PlannerSettings, deadline: Deadline
) -> Improved:
    """The program's side of the search, from a feasible incumbent; never worse than it."""
    best, least = incumbent, objective(problem, incumbent)
    if not deadline.left(settings.iterations):
        return Improved(best, least, None, False, deadline.work)
    bound = ascend(problem, prices, least, settings.iterations)
    if deadline.over:
        return Improved(best, least, bound, False, deadline.work)
    for order in _orders(problem, bound):
        candidate = insert(problem, order)
        value = objective(problem, candidate)
        if value < least:
            best, least = candidate, value
    if least - bound.value > settings.good_gap * abs(least) and deadline.left(settings.core_nodes):
        limits = deadline.core_limits(settings.core_nodes)
        candidate = core.solve(problem, bound, best, settings.core_requests, limits)
        value = objective(problem, candidate)
        if value < least and not deadline.over and not violations(problem, candidate):
            best, least = candidate, value
    return Improved(best, least, bound, True, deadline.work)


def _orders(problem: Problem, bound: Bound) -> list[IntArray]:
    """Orders of insertion: the greedy's key, and the margin between the two best options at the prices."""
    waiting = np.arange(problem.num_running, len(problem.key))
    by_key = waiting[np.argsort(problem.key[waiting], kind="stable")]
    ordered = np.sort(bound.reduced, axis=1)
    by_margin = np.argsort(ordered[:, 0] - ordered[:, 1], kind="stable")
    return [running_first(problem, by_key), by_margin]


class Planner:
    """Makes plans for one engine; keeps the last prices, since little changes between two ticks."""

    def __init__(self, settings: PlannerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._prices: Prices | None = None

    def plan(self, snapshot: Snapshot, budget: Budget) -> Plan:
        """A feasible plan for `snapshot`, the best found within `budget`."""
        began_s = self._clock()
        deadline = Deadline(budget, self._clock)
        curves = resolve_curves(snapshot)
        problem = build(snapshot, curves, self._settings.program)
        incumbent = self._greedy(problem, snapshot, curves)
        prices = self._prices if self._prices is not None else no_prices(problem)
        improved = improve(problem, incumbent, prices, self._settings, deadline)
        if improved.bound is not None:
            self._prices = improved.bound.prices
        return self._publish(snapshot, curves, problem, improved, self._clock() - began_s)

    def _greedy(self, problem: Problem, snapshot: Snapshot, curves: Curves) -> IntArray:
        """The better of two greedies, both feasible: what the rules would admit, and insertion without overflow."""
        place = {int(row): n for n, row in enumerate(problem.rows)}
        ruled = [
            place[int(row)] for row in admissions(snapshot, GREEDY[self._settings.knob], curves) if int(row) in place
        ]
        waiting = np.arange(problem.num_running, len(problem.key))
        by_key = waiting[np.argsort(problem.key[waiting], kind="stable")]
        first = [*ruled, *(n for n in by_key.tolist() if n not in set(ruled))]
        candidates = [
            insert(problem, running_first(problem, np.array(order, np.int64)), True) for order in (first, by_key)
        ]
        return min(candidates, key=lambda choice: objective(problem, choice))

    def _publish(
        self, snapshot: Snapshot, curves: Curves, problem: Problem, improved: Improved, solve_s: float
    ) -> Plan:
        handles, running = snapshot.requests.handle, problem.num_running
        order = np.array(
            sorted(range(running, len(problem.rows)), key=lambda n: (improved.choice[n], problem.key[n])), np.int64
        )
        admitted = order[improved.choice[order] != NEVER]
        admitted = _present(snapshot, problem, improved.choice, admitted)
        evicted = np.flatnonzero(improved.choice[:running] != 0)
        points = problem.bucket_steps[: problem.shape[1]]
        prices = improved.bound.prices.blocks if improved.bound else np.zeros(problem.shape[2])
        return Plan(
            engine_epoch=snapshot.facts.engine_epoch,
            based_on_revision=snapshot.revision,
            source=Source.PROGRAM if improved.by_program else Source.GREEDY,
            admissions=handles[problem.rows[admitted]],
            admit_at_steps=points[improved.choice[admitted]].astype(np.float64),
            evictions=handles[problem.rows[evicted]],
            victims=handles[victims(snapshot, GREEDY[self._settings.knob], curves)],
            bucket_steps=problem.bucket_steps[:-1],
            block_prices=prices,
            reserve_blocks=int(self._settings.program.reserve_unplanned_share * snapshot.facts.total_blocks),
            objective=improved.objective,
            bound=improved.bound.value if improved.bound else float("nan"),
            work_units=improved.work,
            solve_s=solve_s,
        )


def _present(snapshot: Snapshot, problem: Problem, choice: IntArray, admitted: IntArray) -> IntArray:
    """Admissions whose whole known sequence fits into the blocks that are free now; later ones are kept as they are."""
    requests, facts = snapshot.requests, snapshot.facts
    rows = problem.rows[admitted]
    tokens = requests.prompt_tokens[rows] + requests.generated_tokens[rows]
    wanted = -(-tokens // facts.block_size)
    evicted = problem.rows[np.flatnonzero(choice[: problem.num_running] != 0)]
    free = snapshot.free_blocks + int(requests.blocks_held[evicted].sum())
    seats = facts.max_num_seqs - snapshot.num_running + len(evicted)
    kept = []
    for n, blocks in zip(admitted.tolist(), wanted.tolist(), strict=True):
        if choice[n] == 0:
            if blocks > free or seats <= 0:
                continue
            free -= blocks
            seats -= 1
        kept.append(n)
    return np.array(kept, np.int64)
