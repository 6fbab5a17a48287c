"""From a feasible choice to a better one and a proven bound, as far as the budget goes.

It takes a problem, an incumbent, what was found for the last problem and a budget, and knows nothing of snapshots and
plans: prices, then repair and local search around them, again while there is time, then the core program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.program.model import NEVER, NO_REQUEST, Problem
from kvhorizon.solver.program.prices import Prices
from kvhorizon.solver.program.search.budget import Spending
from kvhorizon.solver.program.search.construct import cost_of, feasible, insert_cheapest
from kvhorizon.solver.program.search.dual import Ascent, Bound
from kvhorizon.solver.program.search.local_search import Moves
from kvhorizon.solver.program.search.restricted_mip import Core, Limits

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
TOLERANCE = 1e-6  # of hard constraints
CLOSED = 1e-4  # relative gap at which nothing is left to gain
LITTLE = 1e-5  # relative gain of a sweep after which another would not help
NEAR = 0.5  # of the mean margin: requests closer to break-even are worth moving
REGRET = 10.0  # how much sooner a request in the wrong option is moved than one merely near break-even


@dataclass(frozen=True, slots=True)
class Search:
    """How far each part goes."""

    refining: int = 1000  # rounds between two plans, at most
    rounds: int = 30  # of the dual before the first repair, where work counts
    chunk: int = 2  # rounds between two looks at the clock
    between: int = 16  # rounds between two repairs
    cold_step: float = 0.3  # first step of a dual that begins without prices
    warm_step: float = 0.1  # and of one that begins from the last one's
    pairs: int = 24  # requests on each side of pair moves
    singles_at_once: int = 64  # moves between two looks at the clock
    pairs_at_once: int = 4
    sweeps: int = 3
    sweep_units: int = 10  # of work, per sweep
    core_requests: int = 8
    core_nodes: int = 40
    core_least_s: float = 0.008  # with less time left the core program is not begun


@dataclass(frozen=True, slots=True)
class Improved:
    """The best choice found, and what is known of it."""

    choice: IntArray  # (N,)
    objective: float  # weighted seconds
    duals: Bound | None  # None: the budget ended before anything was proven
    by_program: bool  # whether prices and repair finished within the budget
    repaired: bool  # whether the choice is known to be no worse than a repair around the prices
    work: int  # units spent

    @property
    def bound(self) -> float:
        """Proven lower bound of the program [weighted seconds]; nan where there is none."""
        return self.duals.value if self.duals else float("nan")


class Warm(NamedTuple):
    """What the last problem leaves to the next."""

    prices: Prices
    scale: FloatArray | None  # of the dual's rows; None: not known


class Improver:
    """One improvement under way: the best choice and the best prices so far."""

    def __init__(self, problem: Problem, incumbent: IntArray, budget: Spending, warm: Warm, search: Search) -> None:
        self._problem, self._budget, self._search = problem, budget, search
        self.best, self.least = incumbent, cost_of(problem, incumbent)
        self.duals: Bound | None = None
        first_step = search.warm_step if warm.prices.known else search.cold_step
        self._ascent = Ascent(problem, warm.prices, first_step, warm.scale)
        self._gain = 0.0
        self.repaired = False

    @property
    def scale(self) -> FloatArray:
        """Of the dual's rows."""
        return self._ascent.scale

    @property
    def open(self) -> bool:
        """Whether there is something left to gain."""
        return self.least - self._ascent.value > CLOSED * abs(self.least)

    def price(self, rounds: int, *parts: str) -> int:
        """So many rounds of the dual, as far as the budget goes beside `parts` still to come; returns how many."""
        done = 0
        while done < rounds and self.open and self._budget.allows("rounds", *parts):
            count = self._budget.take(min(self._search.chunk, rounds - done))
            if count == 0:
                break
            self._budget.timed("rounds", lambda: self._ascent.run(count, self.least))  # noqa: B023
            done += count
        return done

    def price_once(self) -> bool:
        """One round though it may end late, by less than a millisecond; whether the budget had not ended before."""
        if self._budget.late or self._budget.take(1) == 0:
            return False
        self._ascent.run(1, self.least)
        return True

    def prove(self) -> None:
        """Take down the best prices and the bound."""
        self.duals = self._ascent.bound()

    def repair(self) -> None:
        """A feasible choice near the prices, in order of margin."""
        self.prove()
        assert self.duals is not None
        self.repaired = True
        self.offer(
            insert_cheapest(self._problem.tables, self.duals.by_option, stayers_first(self._problem, self.duals))
        )

    def sweep(self) -> bool:
        """Local search on the best choice, a piece at a time; returns whether it came to its end."""
        assert self.duals is not None
        order = movable(self._problem, self.duals, self.best)
        near = order[: self._search.pairs]
        candidate, before = self.best.copy(), self.least
        moves = Moves(self._problem, candidate)
        ended = self._in_pieces("singles", order, self._search.singles_at_once, moves.singles) and self._in_pieces(
            "pairs", near, self._search.pairs_at_once, lambda seconds: moves.pairs(seconds, near)
        )
        self.offer(candidate)
        self._gain = before - self.least
        return ended

    def _in_pieces(self, part: str, order: IntArray, at_once: int, move: Callable[[IntArray], None]) -> bool:
        """Move `order` piece after piece while time is left for one more; whether all were moved."""
        for first in range(0, len(order), at_once):
            if not self._budget.allows(part):
                self._budget.refused(part)
                return False
            piece = order[first : first + at_once]
            self._budget.timed(part, lambda: move(piece))  # noqa: B023
        return True

    def sweeps(self) -> None:
        """Sweeps until none helps, as far as the budget goes."""
        for _ in range(self._search.sweeps):
            units = self._search.sweep_units
            if not self._budget.allows("singles"):
                self._budget.refused("singles")
                return
            if not self.open or self._budget.take(units) < units:
                return
            if not self.sweep() or self._gain <= LITTLE * abs(self.least):
                return

    def core(self, core: Core) -> None:
        """The core program, if time is left for it."""
        left_s, search = self._budget.left_s, self._search
        if self.duals is None or not self.open or (left_s is not None and left_s < search.core_least_s):
            return
        nodes = self._budget.take(search.core_nodes)
        if nodes == 0:
            return
        limits = Limits(nodes, lambda: self._budget.left_s)
        candidate = core.improve(self._problem, self.duals, self.best, search.core_requests, limits)
        if candidate is not None and feasible(self._problem.tables, candidate, TOLERANCE):  # HiGHS has its own one
            self.offer(candidate)

    def offer(self, candidate: IntArray) -> None:
        """Keep a feasible choice if it is better."""
        value = cost_of(self._problem, candidate)
        if value < self.least:
            self.best, self.least = candidate, value


def improve(
    problem: Problem, incumbent: IntArray, planned: bool, budget: Spending, warm: Warm, search: Search, core: Core
) -> Improved:
    """Prices, repair, local search, core; never worse than the feasible `incumbent` (N,).

    `planned` says that the incumbent is what the program wanted one plan ago, repaired: then prices alone suffice.
    """
    under_way = Improver(problem, incumbent, budget, warm, search)
    if len(problem.eviction_loss) or (problem.rows != NO_REQUEST).any():
        _work_off(under_way, planned, budget, search, core)
    proven = under_way.duals is not None
    return Improved(under_way.best, under_way.least, under_way.duals, proven, under_way.repaired, budget.work)


def _work_off(under_way: Improver, planned: bool, budget: Spending, search: Search, core: Core) -> None:
    rounds = search.chunk if budget.by_clock else search.rounds
    if under_way.price(rounds, *(["prove"] if planned else ["repair"])) == 0:
        budget.refused("rounds", "repair")
        if planned and under_way.price_once():
            under_way.prove()
        return
    if budget.by_clock:
        under_way.price(search.between, "repair", "singles")
    if not budget.allows("repair"):
        budget.refused("repair")
        budget.timed("prove", under_way.prove)
        return
    budget.timed("repair", under_way.repair)
    under_way.sweeps()
    while budget.by_clock and under_way.price(search.between, "repair", "singles") and budget.allows("repair"):
        budget.timed("repair", under_way.repair)
        under_way.sweeps()
        under_way.core(core)
    if not budget.by_clock:
        under_way.core(core)


def stayers_first(problem: Problem, duals: Bound) -> IntArray:
    """Requests by margin; those that must stay go first, so that nothing takes their place; no empty rows."""
    there = np.flatnonzero(problem.rows != NO_REQUEST)
    order = there[np.argsort(-duals.margins[there], kind="stable")]
    stays = np.isinf(problem.tables.cost_never[order])
    return np.concatenate([order[stays], order[~stays]]) if stays.any() else order


def movable(problem: Problem, duals: Bound, choice: IntArray) -> IntArray:
    """Which requests to move: those in a wrong option at the prices, by how much, then those near break-even."""
    points = problem.shape[1]
    taken = np.where(choice == NEVER, points, choice)
    regret = duals.by_option[taken, np.arange(len(choice))] - duals.least
    margins = duals.margins
    finite = np.isfinite(margins) & (problem.rows != NO_REQUEST)
    near = NEAR * float(margins[finite].mean()) if finite.any() else 0.0
    open_ = np.flatnonzero(finite & ((margins <= near) | (regret > 0.0)))
    return open_[np.argsort(margins[open_] - REGRET * regret[open_], kind="stable")]
