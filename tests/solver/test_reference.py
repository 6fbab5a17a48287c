"""Two independent solvers of the same program agree, and the planner stands between its bound and the optimum."""

import numpy as np
import pytest
from problems import random_problem

from kvhorizon.solver.checks.reference import solve_cpsat, solve_pulp
from kvhorizon.solver.checks.verify import objective, violations
from kvhorizon.solver.program.model import Problem, Tables, turn
from kvhorizon.solver.program.prices import no_prices
from kvhorizon.solver.program.search.budget import Budget, Spending
from kvhorizon.solver.program.search.construct import by_key, greedy_choices
from kvhorizon.solver.program.search.dual import ascend
from kvhorizon.solver.program.search.improve import Improved, Search, Warm, improve
from kvhorizon.solver.program.search.restricted_mip import Core


def hand_problem(price: float = 100.0) -> Problem:
    """One bucket, a pool of 10 blocks, three waiting requests of 6, 5 and 5 blocks, delays 9, 5 and 5 if left out.

    Two fives (left out: the six, 9) beat the six alone (left out: 10): the optimum is 9.
    """
    tables = Tables(
        cost=np.zeros((3, 1)),
        cost_never=np.array([9.0, 5.0, 5.0]),
        blocks=np.array([6.0, 5.0, 5.0]).reshape(3, 1, 1),
        sequences=np.ones((3, 1, 1)),
        prefill_tokens=np.zeros((3, 1)),
        held_blocks=np.zeros(3),
        capacity_blocks=np.array([10.0]),
        max_sequences=np.array([3.0]),
        prefill_budget_tokens=np.array([1.0]),
        present_blocks=np.array([100.0]),
        overflow_price=np.array([price]),
        admission_bucket=np.zeros(1, np.int64),
    )
    handles = np.arange(3, dtype=np.uint64)
    return Problem(tables, np.array([0.0, 1.0]), 0, np.arange(3), handles, np.arange(3.0), np.zeros(0), turn(tables))


def improved(problem: Problem, incumbent) -> Improved:
    """What the program makes of an incumbent with all the work it wants."""
    spending = Spending(Budget(work=1000), lambda: 0.0)
    return improve(problem, incumbent, False, spending, Warm(no_prices(problem), None), Search(), Core())


@pytest.mark.parametrize("solve", [solve_pulp, solve_cpsat])
def test_the_knapsack_of_the_docstring(solve) -> None:
    choice, value = solve(hand_problem())
    assert choice.tolist() == [-1, 0, 0]
    assert value == pytest.approx(9.0)


def test_cheap_overflow_is_bought() -> None:
    """At 0.5 per block, holding all three, 6 blocks over, costs 3 and beats leaving anyone out."""
    assert solve_pulp(hand_problem(0.5))[1] == pytest.approx(3.0)


def test_the_planner_finds_the_knapsack() -> None:
    problem = hand_problem()
    greedy = greedy_choices(problem, by_key(problem))[0]
    found = improved(problem, greedy)
    assert found.choice.tolist() == [-1, 0, 0]


@pytest.mark.parametrize("seed", range(12))
def test_pulp_and_cpsat_agree(seed: int) -> None:
    problem = random_problem(seed, 4 + seed % 5, 6 + seed % 7)
    by_pulp, value = solve_pulp(problem)
    by_cpsat, other = solve_cpsat(problem)
    assert violations(problem, by_pulp) == violations(problem, by_cpsat) == []
    assert objective(problem, by_pulp) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert other == pytest.approx(value, rel=2e-3, abs=1e-2)


@pytest.mark.parametrize("seed", range(60))
def test_bound_optimum_plan(seed: int) -> None:
    """bound ≤ optimum ≤ plan ≤ greedy, on problems of 5 to 20 requests."""
    problem = random_problem(100 + seed, seed % 8, 5 + seed % 9)
    _, optimum = solve_pulp(problem)
    greedy = min(greedy_choices(problem, by_key(problem)), key=lambda choice: objective(problem, choice))
    assert violations(problem, greedy) == []
    found = improved(problem, greedy)
    slack = 1e-6 * abs(optimum) + 1e-9
    assert violations(problem, found.choice) == []
    assert found.bound <= optimum + slack
    assert optimum <= found.objective + slack
    assert found.objective == pytest.approx(objective(problem, found.choice))
    assert found.objective <= objective(problem, greedy) + slack


def test_more_rounds_never_loosen_the_bound() -> None:
    problem = random_problem(5, 16, 24)
    never = problem.tables.cost_never
    upper = float(never[np.isfinite(never)].sum())
    values = [ascend(problem, no_prices(problem), upper, rounds).value for rounds in (1, 10, 50, 200)]
    assert values == sorted(values)
    assert values[-1] > values[0]
