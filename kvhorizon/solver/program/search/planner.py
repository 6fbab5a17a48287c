"""From a snapshot to a plan within a budget: the greedy at once, then the program, as far as the budget goes.

Two greedies are the incumbent: the rules' own admissions, and insertion by the same key. The program improves them
(`improve`); its prices and its choice are kept for the next plan, and between plans `refine` improves the prices. The
plan is the program's if prices and repair ended within the budget, else the greedy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.solver.heuristic.of_a_snapshot import admissions
from kvhorizon.solver.heuristic.params import Greedy, Knob
from kvhorizon.solver.program.build import Builder
from kvhorizon.solver.program.model import NEVER, NO_REQUEST, Problem
from kvhorizon.solver.program.prices import Prices, no_prices
from kvhorizon.solver.program.search.budget import FINISH, Budget, Pace, Spending
from kvhorizon.solver.program.search.construct import by_key, cost_of, greedy_choices, insert_planned
from kvhorizon.solver.program.search.improve import Improved, Improver, Search, Warm, improve
from kvhorizon.solver.program.search.restricted_mip import Core
from kvhorizon.solver.program.settings import Settings, settings_of
from kvhorizon.state import HandleArray, Plan, Snapshot, Source

__all__ = ["Budget", "Planner", "PlannerSettings", "Settings"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
KNOWN_SHARE = 0.5  # of the waiting requests, for the last plan to be worth repairing
UNCHECKED = 4  # plans that may begin with the last one's choice without a repair, or a look at the greedies, since
AHEAD_SHARE = 0.5  # of the time between two plans, for the next grid; the rest improves the choice meanwhile


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """The program's model, the greedy's knob, and how far the search goes."""

    program: Settings | None = None  # where it is not the knob's own
    knob: Knob = Knob.BALANCED
    search: Search = field(default_factory=Search)

    @property
    def model(self) -> Settings:
        """The program's parameters."""
        return settings_of(self.knob) if self.program is None else self.program

    @property
    def rule(self) -> Greedy:
        """The greedy's parameters."""
        return self.knob.rule


class Solved(NamedTuple):
    """A plan, the program that it solves, and the choices behind it."""

    plan: Plan
    problem: Problem
    improved: Improved


class Kept(NamedTuple):
    """What a plan leaves to the next: little changes between two."""

    problem: Problem
    prices: Prices
    choice: IntArray  # (N,)
    scale: FloatArray | None  # of the dual's rows; None: not known
    repaired: bool  # whether the choice goes back to a repair around prices
    unchecked: int  # plans since that, or since it was compared with the greedies
    now_s: float  # engine time
    epoch: int

    @property
    def handle(self) -> HandleArray:
        """(N,) Whose each row was."""
        return self.problem.handle


class Planner:
    """Makes plans for one engine, one after the other."""

    def __init__(self, settings: PlannerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._builder = Builder(settings.model)
        self._core = Core()
        self._pace = Pace()
        self._kept: Kept | None = None

    def plan(self, snapshot: Snapshot, budget: Budget, publish: Callable[[Plan], None] | None = None) -> Plan:
        """A feasible plan for `snapshot`, the best found within `budget`; `publish` gets the greedy's before that."""
        return self.solve(snapshot, budget, publish).plan

    def solve(self, snapshot: Snapshot, budget: Budget, publish: Callable[[Plan], None] | None = None) -> Solved:
        """As `plan`, with what is needed to explain it; the problem is good until the next plan."""
        began_s = self._clock()
        spending = Spending(budget, self._clock, self._pace)
        curves = resolve_curves(snapshot)
        problem = self._builder.build(snapshot, curves)
        key_order = by_key(problem)
        planned, kept = self._planned(snapshot, problem, key_order), self._kept
        choices = [] if planned is None else [planned]
        checks = kept is None or kept.unchecked >= UNCHECKED or publish is not None or not spending.by_clock
        if checks or planned is None:
            choices += self._greedy(problem, key_order, snapshot, curves)
        incumbent = min(choices, key=lambda choice: cost_of(problem, choice))
        if publish is not None:
            first = Improved(incumbent, cost_of(problem, incumbent), None, False, False, 0)
            publish(self._plan_of(snapshot, problem, key_order, first, self._clock() - began_s))
        repaired = kept is not None and kept.repaired and incumbent is planned
        warm, search = self._warm(snapshot, problem), self._settings.search
        improved = improve(problem, incumbent, repaired, spending, warm, search, self._core)
        unchecked = 0 if kept is None or len(choices) > 1 or improved.repaired else kept.unchecked + 1
        self._kept = Kept(
            problem,
            warm.prices if improved.duals is None else improved.duals.prices,
            improved.choice,
            warm.scale,
            repaired or improved.repaired,
            unchecked,
            snapshot.now_s,
            snapshot.facts.engine_epoch,
        )
        ended_s = self._clock()
        plan = self._plan_of(snapshot, problem, key_order, improved, ended_s - began_s)
        if spending.by_clock:
            self._pace.measured(FINISH, self._clock() - ended_s)
        return Solved(plan, problem, improved)

    def refine(self, seconds: float) -> None:
        """Improve the last plan's prices and choice for the next one, while nothing else is to do."""
        if self._kept is None:
            return
        problem, search = self._kept.problem, self._settings.search
        spending = Spending(Budget(seconds=seconds), self._clock, self._pace)
        self._builder.frame.work_ahead(Spending(Budget(seconds=AHEAD_SHARE * seconds), self._clock, self._pace))
        under_way = Improver(problem, self._kept.choice, spending, Warm(self._kept.prices, None), search)
        if under_way.price(search.refining, "repair") and spending.allows("repair"):
            spending.timed("repair", under_way.repair)
            under_way.sweeps()
        if under_way.duals is not None:
            self._kept = self._kept._replace(
                prices=under_way.duals.prices,
                choice=under_way.best,
                scale=under_way.scale,
                repaired=self._kept.repaired or under_way.repaired,
                unchecked=0 if under_way.repaired else self._kept.unchecked,
            )

    def _known(self, snapshot: Snapshot) -> Kept | None:
        kept = self._kept
        if kept is None or kept.epoch != snapshot.facts.engine_epoch or snapshot.now_s < kept.now_s:
            return None
        return kept

    def _warm(self, snapshot: Snapshot, problem: Problem) -> Warm:
        kept = self._known(snapshot)
        return Warm(no_prices(problem), None) if kept is None else Warm(kept.prices, kept.scale)

    def _planned(self, snapshot: Snapshot, problem: Problem, key_order: IntArray) -> IntArray | None:
        """What the last plan wanted, as far as it still fits, then the new ones; None where most are new."""
        kept = self._known(snapshot)
        if kept is None:
            return None
        wanted, running = np.full(problem.shape[0], NEVER), problem.num_running
        wanted[:running] = np.where(problem.rows[:running] == NO_REQUEST, NEVER, 0)
        both = slice(running, min(len(kept.choice), len(wanted)))
        same = np.zeros(len(wanted), bool)
        same[both] = problem.handle[both] == kept.handle[both]
        there = problem.rows != NO_REQUEST
        if np.count_nonzero(same & there) < KNOWN_SHARE * np.count_nonzero(there[running:]):
            return None
        wanted[both] = np.where(same[both], points_after(kept.problem, problem)[kept.choice[both]], NEVER)
        order = np.flatnonzero(wanted != NEVER)
        order = order[np.argsort(wanted[order].astype(np.int16), kind="stable")]
        new = key_order[~same[key_order]]
        return np.asarray(insert_planned(problem.tables, wanted, order, new))

    def _greedy(self, problem: Problem, key_order: IntArray, snapshot: Snapshot, curves: Curves) -> list[IntArray]:
        return greedy_choices(problem, key_order, admissions(snapshot, self._settings.rule, curves))

    def _plan_of(
        self,
        snapshot: Snapshot,
        problem: Problem,
        key_order: IntArray,
        improved: Improved,
        solve_s: float,
    ) -> Plan:
        choice, running = improved.choice, problem.num_running
        waiting = key_order[choice[key_order] != NEVER]
        admitted = waiting[np.argsort(choice[waiting].astype(np.int16), kind="stable")]
        prices = improved.duals.prices.blocks if improved.duals else np.zeros(problem.shape[2])
        return Plan(
            engine_epoch=snapshot.facts.engine_epoch,
            based_on_revision=snapshot.revision,
            source=Source.PROGRAM if improved.by_program else Source.GREEDY,
            admissions=problem.handle[admitted],
            admit_at_steps=problem.point_steps[choice[admitted]],
            evictions=problem.handle[np.flatnonzero((choice[:running] != 0) & (problem.rows[:running] != NO_REQUEST))],
            bucket_steps=problem.bucket_steps[:-1],
            block_prices=prices,
            objective=improved.objective,
            bound=improved.bound,
            work_units=improved.work,
            solve_s=solve_s,
        )


def points_after(before: Problem, problem: Problem) -> IntArray:
    """(A + 1,) The admission point of `problem` nearest in time to each of `before`; last: NEVER stays NEVER."""
    apart = np.abs(problem.point_steps[:, None] - before.point_steps)
    return np.append(apart.argmin(axis=0), NEVER)
