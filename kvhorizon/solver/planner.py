"""From a snapshot to a plan within a budget: the greedy at once, then the program, as far as the budget goes.

Two greedies are the incumbent: the rules' own admissions, and insertion by the same key. The program improves them
(`improve`), and its prices of a block are kept for the next plan. The plan is the program's if prices and repair ended
within the budget, else the greedy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.resolve import resolve_curves
from kvhorizon.models.survival import Curves
from kvhorizon.solver.budget import Budget, Spending
from kvhorizon.solver.dual import Prices, no_prices
from kvhorizon.solver.greedy import GREEDY, Greedy, Knob
from kvhorizon.solver.improve import Improved, Search, improve
from kvhorizon.solver.insert import cost_of, greedy_choices
from kvhorizon.solver.problem import NEVER, Problem, build
from kvhorizon.solver.rule_plan import admissions, victims
from kvhorizon.solver.settings import Settings
from kvhorizon.state import Plan, Snapshot, Source

__all__ = ["Budget", "Planner", "PlannerSettings", "Settings"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """The program's model, the greedy's knob, and how far the search goes."""

    program: Settings = field(default_factory=Settings)
    knob: Knob = Knob.BALANCED
    search: Search = field(default_factory=Search)

    @property
    def rule(self) -> Greedy:
        """The greedy's parameters."""
        return GREEDY[self.knob]


class Solved(NamedTuple):
    """A plan, the program that it solves, and the choices behind it."""

    plan: Plan
    problem: Problem
    improved: Improved


class Planner:
    """Makes plans for one engine; keeps the last prices, since little changes between two plans."""

    def __init__(self, settings: PlannerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._prices: Prices | None = None
        self._priced_s = 0.0  # engine time of the prices
        self._epoch = 0  # engine epoch of the prices

    def plan(self, snapshot: Snapshot, budget: Budget, publish: Callable[[Plan], None] | None = None) -> Plan:
        """A feasible plan for `snapshot`, the best found within `budget`; `publish` gets the greedy's before that."""
        return self.solve(snapshot, budget, publish).plan

    def solve(self, snapshot: Snapshot, budget: Budget, publish: Callable[[Plan], None] | None = None) -> Solved:
        """As `plan`, with what is needed to explain it."""
        began_s = self._clock()
        spending = Spending(budget, self._clock)
        curves = resolve_curves(snapshot)
        problem = build(snapshot, self._settings.program, curves)
        incumbent = self._greedy(problem, snapshot, curves)
        order = victims(snapshot, self._settings.rule, curves)
        if publish is not None:
            first = Improved(incumbent, cost_of(problem, incumbent), None, False, 0)
            publish(self._plan_of(snapshot, problem, first, order, self._clock() - began_s))
        improved = improve(problem, incumbent, spending, self._warm(snapshot, problem), self._settings.search)
        if improved.duals is not None:
            self._prices, self._priced_s = improved.duals.prices, snapshot.now_s
            self._epoch = snapshot.facts.engine_epoch
        plan = self._plan_of(snapshot, problem, improved, order, self._clock() - began_s)
        return Solved(plan, problem, improved)

    def _warm(self, snapshot: Snapshot, problem: Problem) -> Prices:
        elapsed_s = snapshot.now_s - self._priced_s
        if self._prices is None or self._epoch != snapshot.facts.engine_epoch or elapsed_s < 0.0:
            return no_prices(problem)
        return self._prices.moved(problem, elapsed_s / max(snapshot.step_s, 1e-6))

    def _greedy(self, problem: Problem, snapshot: Snapshot, curves: Curves) -> IntArray:
        choices = greedy_choices(problem, admissions(snapshot, self._settings.rule, curves))
        return min(choices, key=lambda choice: cost_of(problem, choice))

    def _plan_of(
        self, snapshot: Snapshot, problem: Problem, improved: Improved, rule_victims: IntArray, solve_s: float
    ) -> Plan:
        choice, running, handles = improved.choice, problem.num_running, snapshot.requests.handle
        waiting = running + np.flatnonzero(choice[running:] != NEVER)
        admitted = waiting[np.lexsort((problem.key[waiting], choice[waiting]))]
        prices = improved.duals.prices.blocks if improved.duals else np.zeros(problem.shape[2])
        return Plan(
            engine_epoch=snapshot.facts.engine_epoch,
            based_on_revision=snapshot.revision,
            source=Source.PROGRAM if improved.by_program else Source.GREEDY,
            admissions=problem.handle[admitted],
            admit_at_steps=problem.point_steps[choice[admitted]],
            evictions=problem.handle[np.flatnonzero(choice[:running] != 0)],
            victims=handles[victim_order(problem, prices, rule_victims)],
            bucket_steps=problem.bucket_steps[:-1],
            block_prices=prices,
            reserve_blocks=int(self._settings.rule.reserve_unplanned_share * snapshot.facts.total_blocks),
            objective=improved.objective,
            bound=improved.bound,
            work_units=improved.work,
            solve_s=solve_s,
        )


def victim_order(problem: Problem, prices: FloatArray, rule_victims: IntArray) -> IntArray:
    """Running requests (R,), the first to give up first: those that free most memory, at its price, per second lost.

    `rule_victims` (R,) is the rules' order by memory over all time to come; it stands where memory has no price.
    """
    worth = problem.tables.blocks[: problem.num_running, 0] @ prices
    if not worth.any():
        return rule_victims
    return np.argsort(-worth / np.maximum(problem.eviction_loss, 1e-12), kind="stable")
