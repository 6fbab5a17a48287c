"""Two independent solvers of the same program agree, and the planner stands between its bound and the optimum."""

import dataclasses

import numpy as np
import pytest
from problems import random_problem

from kvhorizon.solver.dual import ascend, no_prices
from kvhorizon.solver.insert import insert, running_first
from kvhorizon.solver.planner import Budget, Deadline, PlannerSettings, improve
from kvhorizon.solver.problem import Problem
from kvhorizon.solver.reference import solve_cpsat, solve_pulp
from kvhorizon.solver.verify import objective, violations


def hand_problem() -> Problem:
    """One bucket-deep pool of 10 blocks, three waiting requests of 6, 5 and 5 blocks, delays 9, 5 and 5 if left out.

    Two fives (left out: the six, 9) beat the six alone (left out: 10): the optimum is 9.
    """
    blocks = np.array([6.0, 5.0, 5.0]).reshape(3, 1, 1)
    return Problem(
        cost=np.zeros((3, 1)),
        cost_never=np.array([9.0, 5.0, 5.0]),
        blocks=blocks,
        sequences=np.ones((3, 1, 1)),
        prefill_tokens=np.zeros((3, 1)),
        capacity_blocks=np.array([10.0]),
        max_sequences=3.0,
        prefill_budget_tokens=np.array([1.0]),
        overflow_price=np.array([100.0]),
        bucket_steps=np.array([0.0, 1.0]),
        num_running=0,
        rows=np.arange(3),
        key=np.arange(3.0),
    )


@pytest.mark.parametrize("solve", [solve_pulp, solve_cpsat])
def test_the_knapsack_of_the_docstring(solve) -> None:
    choice, value = solve(hand_problem())
    assert choice.tolist() == [-1, 0, 0]
    assert value == pytest.approx(9.0)


def test_cheap_overflow_is_bought() -> None:
    """At 1 per block, holding all three (6 blocks over) costs 6 and beats leaving the six out (9) or a five (1 + 5)."""
    problem = dataclasses.replace(hand_problem(), overflow_price=np.array([0.5]))
    assert solve_pulp(problem)[1] == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(12))
def test_pulp_and_cpsat_agree(seed: int) -> None:
    problem = random_problem(seed, 4 + seed % 5, 6 + seed % 7)
    by_pulp, value = solve_pulp(problem)
    by_cpsat, other = solve_cpsat(problem)
    assert violations(problem, by_pulp) == violations(problem, by_cpsat) == []
    assert objective(problem, by_pulp) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert other == pytest.approx(value, rel=2e-3, abs=1e-2)


@pytest.mark.parametrize("seed", range(20))
def test_bound_optimum_plan(seed: int) -> None:
    """bound ≤ optimum ≤ plan ≤ greedy, on problems of 5 to 20 requests."""
    problem = random_problem(100 + seed, seed % 8, 5 + seed % 9)
    _, optimum = solve_pulp(problem)
    waiting = np.arange(problem.num_running, len(problem.key))
    greedy = insert(problem, running_first(problem, waiting), price_free=True)
    improved = improve(
        problem, greedy, no_prices(problem), PlannerSettings(good_gap=0.0), Deadline(Budget(work=1000), lambda: 0.0)
    )
    slack = 1e-6 * abs(optimum) + 1e-9
    assert improved.bound is not None
    assert improved.bound.value <= optimum + slack
    assert optimum <= improved.objective + slack
    assert improved.objective <= objective(problem, greedy) + slack


def test_more_iterations_never_loosen_the_bound() -> None:
    problem = random_problem(5, 16, 24)
    upper = float(problem.cost_never[np.isfinite(problem.cost_never)].sum())
    values = [ascend(problem, no_prices(problem), upper, rounds).value for rounds in (1, 10, 50, 200)]
    assert values == sorted(values)
    assert values[-1] > values[0]
