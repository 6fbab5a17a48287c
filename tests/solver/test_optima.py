"""A thousand small programs with every kind of constraint: bound ≤ relaxation ≤ optimum ≤ plan, by HiGHS."""

import dataclasses

import highspy
import numpy as np
import pytest
from problems import random_problem

from kvhorizon.solver.checks.lp_relaxation import relax, rows_of
from kvhorizon.solver.checks.verify import violations
from kvhorizon.solver.program.model import Problem, turn
from kvhorizon.solver.program.prices import no_prices
from kvhorizon.solver.program.search.budget import Budget, Spending
from kvhorizon.solver.program.search.construct import by_key, cost_of, greedy_choices
from kvhorizon.solver.program.search.dual import ascend
from kvhorizon.solver.program.search.improve import Improved, Search, Warm, improve
from kvhorizon.solver.program.search.restricted_mip import Core, Limits


def by_highs(problem: Problem, integral: bool) -> float:
    """The optimum, or that of the relaxation, by a dense model built row by row."""
    tables, (size, points, buckets) = problem.tables, problem.shape
    solver = highspy.Highs()
    for name, value in {"output_flag": False, "threads": 1, "mip_rel_gap": 0.0}.items():
        solver.setOptionValue(name, value)
    options = [(n, a) for n in range(size) for a in range(points + 1)]
    cost = [tables.cost[n, a] if a < points else tables.cost_never[n] for n, a in options]
    for value in cost:
        exists = np.isfinite(value)
        solver.addVar(0.0, 1.0 if exists else 0.0)
        solver.changeColCost(solver.getNumCol() - 1, value if exists else 0.0)
        if integral:
            solver.changeColIntegrality(solver.getNumCol() - 1, highspy.HighsVarType.kInteger)
    for price in tables.overflow_price:
        solver.addVar(0.0, highspy.kHighsInf)
        solver.changeColCost(solver.getNumCol() - 1, price)
    uses, limits = rows_of(tables).uses, rows_of(tables).limit
    for n in range(size):
        columns = [c for c, option in enumerate(options) if option[0] == n]
        solver.addRow(1.0, 1.0, len(columns), np.array(columns), np.ones(len(columns)))
    for row, limit in enumerate(limits):
        columns = [c for c, (n, a) in enumerate(options) if a < points and uses[n, a, row] > 0.0]
        values = [uses[options[c][0], options[c][1], row] for c in columns]
        if row < buckets:
            columns, values = [*columns, len(options) + row], [*values, -1.0]
        solver.addRow(-highspy.kHighsInf, limit, len(columns), np.array(columns), np.array(values))
    solver.run()
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return solver.getInfo().objective_function_value


def planned(problem: Problem) -> Improved:
    """The planner's answer with all the work it wants."""
    greedy = min(greedy_choices(problem, by_key(problem)), key=lambda choice: cost_of(problem, choice))
    spending = Spending(Budget(work=400), lambda: 0.0)
    return improve(problem, greedy, False, spending, Warm(no_prices(problem), None), Search(rounds=60), Core())


@pytest.mark.parametrize("block", range(10))
def test_bound_optimum_plan(block: int) -> None:
    """A hundred programs each; the plans are within 1 % of the optimum in the mean."""
    excess = []
    for seed in range(100 * block, 100 * block + 100):
        problem = random_problem(10_000 + seed, seed % 6, 3 + seed % 8)
        best, found = by_highs(problem, True), planned(problem)
        slack = 1e-6 * abs(best) + 1e-7
        assert violations(problem, found.choice) == []
        assert found.bound <= best + slack
        assert best <= found.objective + slack
        excess.append(found.objective / best - 1.0)
    assert np.mean(excess) < 0.01


@pytest.mark.parametrize("seed", range(40))
def test_the_relaxation_is_solved_exactly(seed: int) -> None:
    problem = random_problem(seed, seed % 5, 6 + seed)
    found = relax(problem.tables, no_prices(problem).rows)
    wanted = by_highs(problem, False)
    assert found.bound == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert found.above == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_what_must_not_matter_does_not(seed: int) -> None:
    """Other units of time scale the cost, another order of requests changes nothing, a larger pool costs no more."""
    problem = random_problem(seed, 5, 20)
    tables, order = problem.tables, np.random.default_rng(seed).permutation(25)
    value = relax(tables, no_prices(problem).rows).bound
    scaled = tables._replace(
        cost=3.0 * tables.cost, cost_never=3.0 * tables.cost_never, overflow_price=3.0 * tables.overflow_price
    )
    mixed = tables._replace(
        **{
            name: getattr(tables, name)[order]
            for name in ("cost", "cost_never", "blocks", "sequences", "prefill_tokens", "held_blocks")
        }
    )
    larger = tables._replace(capacity_blocks=1.2 * tables.capacity_blocks)
    zero = no_prices(problem).rows
    assert relax(scaled, zero).bound == pytest.approx(3.0 * value, rel=1e-6)
    assert relax(mixed, zero).bound == pytest.approx(value, rel=1e-6)
    assert relax(larger, zero).bound <= value + 1e-6
    shuffled = dataclasses.replace(problem, tables=mixed, turned=turn(mixed))
    upper = float(tables.cost_never[5:].sum())
    one, other = (ascend(p, no_prices(p), upper, 200).value for p in (problem, shuffled))
    assert one == pytest.approx(other, rel=5e-3)


def test_a_late_answer_of_highs_is_left_behind() -> None:
    """With no time left the core gives nothing, and is not asked again while it still runs."""
    problem = random_problem(1, 5, 40)
    duals = ascend(problem, no_prices(problem), float(problem.tables.cost_never[5:].sum()), 50)
    choice = greedy_choices(problem, by_key(problem))[0]
    assert Core().improve(problem, duals, choice, 30, Limits(40, lambda: 0.0)) is None
    inside = Core().improve(problem, duals, choice, 30, Limits(40, lambda: None))
    assert inside is not None
    assert violations(problem, inside) == []
