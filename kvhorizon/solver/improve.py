"""From a feasible choice to a better one and a proven bound, as far as the budget goes.

This is the seam for a stronger search: it takes a problem, an incumbent, prices to start from and a budget, and knows
nothing of snapshots and plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.budget import Spending
from kvhorizon.solver.core import Limits, improve_core
from kvhorizon.solver.dual import Bound, Prices, ascend
from kvhorizon.solver.insert import by_key, cost_of, insert_cheapest
from kvhorizon.solver.moves import local_search
from kvhorizon.solver.problem import Problem
from kvhorizon.solver.verify import violations

IntArray = NDArray[np.int64]
CLOSED = 1e-3  # relative gap at which nothing is left to gain


@dataclass(frozen=True, slots=True)
class Search:
    """How far each part goes."""

    rounds: int = 30  # of the dual
    pairs: int = 24  # requests nearest to break-even that local search pairs up
    sweeps: int = 3
    sweep_units: int = 10  # of work, per sweep
    core_requests: int = 8
    core_nodes: int = 40
    overrun_s: float = 0.005  # HiGHS returns so much later than it was told to


@dataclass(frozen=True, slots=True)
class Improved:
    """The best choice found, and what is known of it."""

    choice: IntArray  # (N,)
    objective: float  # weighted seconds
    duals: Bound | None  # None: the budget ended before anything was proven
    by_program: bool  # whether prices and repair finished within the budget
    work: int  # units spent

    @property
    def bound(self) -> float:
        """Proven lower bound of the program [weighted seconds]; nan where there is none."""
        return self.duals.value if self.duals else float("nan")


def improve(problem: Problem, incumbent: IntArray, budget: Spending, warm: Prices, search: Search) -> Improved:
    """Prices, repair, local search, core; never worse than the feasible `incumbent` (N,)."""
    best, least = incumbent, cost_of(problem, incumbent)
    rounds = budget.take(search.rounds) if len(incumbent) else 0
    if rounds == 0:
        return Improved(best, least, None, False, budget.work)
    duals = ascend(problem, warm, least, rounds)
    candidates = repaired(problem, duals)
    if budget.late:
        return Improved(best, least, duals, False, budget.work)
    for candidate in candidates:
        value = cost_of(problem, candidate)
        if value < least:
            best, least = candidate, value
    best, least = _local(problem, best, least, duals, budget, search)
    if least - duals.value > CLOSED * abs(least):
        best, least = _core(problem, best, least, duals, budget, search)
    return Improved(best, least, duals, True, budget.work)


def repaired(problem: Problem, duals: Bound) -> list[IntArray]:
    """Feasible choices (N,) near the dual solution: by true cost or by cost at the prices, in two orders."""
    tables = problem.tables
    cost = np.column_stack([tables.cost, tables.cost_never])
    order = np.concatenate([np.arange(problem.num_running), by_key(problem)]).astype(np.int64)
    return [
        insert_cheapest(tables, cost, order),
        insert_cheapest(tables, duals.reduced, order),
        insert_cheapest(tables, duals.reduced, _by_margin(problem, duals)),
    ]


def _by_margin(problem: Problem, duals: Bound) -> IntArray:
    """All requests (N,) by margin; those that must stay go first, so that nothing takes their place."""
    order = duals.order_by_margin()
    stays = np.isinf(problem.tables.cost_never[order])
    return np.concatenate([order[stays], order[~stays]])


def _local(
    problem: Problem, best: IntArray, least: float, duals: Bound, budget: Spending, search: Search
) -> tuple[IntArray, float]:
    sweeps = budget.take(search.sweeps * search.sweep_units) // search.sweep_units
    if sweeps == 0:
        return best, least
    nearest = duals.order_by_margin()[::-1].copy()
    candidate = local_search(problem, best, nearest, search.pairs, sweeps)
    value = cost_of(problem, candidate)
    return (best, least) if budget.late or value >= least else (candidate, value)


def _core(
    problem: Problem, best: IntArray, least: float, duals: Bound, budget: Spending, search: Search
) -> tuple[IntArray, float]:
    left_s = budget.left_s
    seconds = None if left_s is None else left_s - search.overrun_s
    nodes = budget.take(search.core_nodes) if seconds is None or seconds > 0.0 else 0
    if nodes == 0:
        return best, least
    candidate = improve_core(problem, duals, best, search.core_requests, Limits(nodes, seconds))
    value = cost_of(problem, candidate)
    if budget.late or value >= least or violations(problem, candidate):  # HiGHS keeps rows to a tolerance only
        return best, least
    return candidate, value
