"""The planner: always feasible, never worse than the greedy, the same twice, and honest about who decided."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import random_problem, random_snapshot

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.solver.checks.verify import plan_violations, violations
from kvhorizon.solver.heuristic.of_a_snapshot import admissions
from kvhorizon.solver.heuristic.params import GREEDY, KNOBS, Knob
from kvhorizon.solver.program.prices import no_prices
from kvhorizon.solver.program.search.dual import ascend
from kvhorizon.solver.program.search.planner import Budget, Planner, PlannerSettings
from kvhorizon.state import Source


def planner(**changes: object) -> Planner:
    return Planner(PlannerSettings(**changes), lambda: 0.0)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    running=st.integers(0, 24),
    waiting=st.integers(0, 40),
    work=st.sampled_from([0, 30, 100]),
    batched=st.sampled_from([16, 512, 8192]),
    knob=st.sampled_from(KNOBS),
)
def test_every_plan_can_be_carried_out(
    seed: int, running: int, waiting: int, work: int, batched: int, knob: Knob
) -> None:
    snapshot = random_snapshot(seed, running, waiting, batch_tokens=batched)
    plan = planner(knob=knob).plan(snapshot, Budget(work=work))
    assert plan_violations(snapshot, plan) == []
    planned = work > 0 and running + waiting > 0
    assert plan.source == (Source.PROGRAM if planned else Source.GREEDY)
    assert plan.work_units <= work


@pytest.mark.parametrize("seed", range(30))
def test_the_program_is_never_worse_than_the_greedy(seed: int) -> None:
    snapshot = random_snapshot(seed, 32, 64)
    greedy = planner().plan(snapshot, Budget(work=0))
    program = planner().plan(snapshot, Budget(work=100))
    assert program.objective <= greedy.objective * (1.0 + 1e-12)
    assert program.bound <= program.objective


def test_it_improves_on_the_greedy_under_pressure() -> None:
    """Over thirty loaded engines the program finds something better on at least a third."""
    better = 0
    for seed in range(30):
        snapshot = random_snapshot(seed, 32, 64, occupancy=0.9)
        greedy, program = (planner().plan(snapshot, Budget(work=work)).objective for work in (0, 100))
        better += program < greedy * 0.999
    assert better >= 10


def test_plans_repeat_exactly() -> None:
    """Work-unit budgets: two planners, a sequence of snapshots, identical plans."""
    first, second = planner(), planner()
    for seed in range(5):
        snapshot = random_snapshot(seed, 24, 48)
        one, two = first.plan(snapshot, Budget(work=100)), second.plan(snapshot, Budget(work=100))
        np.testing.assert_array_equal(one.admissions, two.admissions)
        np.testing.assert_array_equal(one.block_prices, two.block_prices)
        assert (one.objective, one.bound) == (two.objective, two.bound)


def test_a_budget_that_ended_leaves_the_greedy() -> None:
    """A clock that has run out at the second look."""
    times = iter([0.0, 0.0] + [99.0] * 100)
    plan = Planner(PlannerSettings(), lambda: next(times)).plan(random_snapshot(1, 16, 16), Budget(seconds=0.005))
    assert plan.source == Source.GREEDY


def test_an_idle_engine_admits() -> None:
    """Nothing runs, everything fits: whoever comes first by the key is admitted now."""
    snapshot = random_snapshot(2, 0, 5)
    plan = planner().plan(snapshot, Budget(work=100))
    assert len(plan.admissions) > 0
    assert (plan.admit_at_steps == 0.0).any()


def test_the_rules_admit_what_fits() -> None:
    snapshot = random_snapshot(3, 16, 30, occupancy=0.8)
    chosen = admissions(snapshot, GREEDY[Knob.MEANS], resolve_curves(snapshot))
    requests = snapshot.requests
    blocks = -(-(requests.prompt_tokens[chosen] + requests.generated_tokens[chosen]) // 16)
    assert 0 < len(chosen) == len(set(chosen.tolist()))
    assert (chosen >= 16).all()
    assert blocks.sum() <= snapshot.free_blocks


def test_no_request_is_evicted_while_memory_has_memory_slack() -> None:
    for seed in range(20):
        plan = planner().plan(random_snapshot(seed, 24, 24, occupancy=0.8), Budget(work=100))
        assert len(plan.evictions) == 0


@pytest.mark.parametrize(
    ("budget", "field"),
    [({"seconds": 1.0, "work": 3}, "budget"), ({}, "budget"), ({"seconds": -1.0}, "budget"), ({"work": -1}, "budget")],
)
def test_budgets_that_make_no_sense_are_refused(budget: dict[str, float], field: str) -> None:
    with pytest.raises(InputError, match=field):
        Budget(**budget)


def test_verify_sees_each_violation() -> None:
    """A choice that admits everyone now breaks hard constraints; one out of range, or too short, is named."""
    problem = random_problem(4, 8, 40)
    everyone = np.zeros(problem.shape[0], np.int64)
    assert any("prefill" in sentence for sentence in violations(problem, everyone))
    assert any("blocks are held now" in sentence for sentence in violations(problem, everyone))
    assert violations(problem, everyone[1:]) != []
    everyone[0] = 99
    assert violations(problem, everyone) != []


def test_verify_sees_each_bad_plan() -> None:
    snapshot = random_snapshot(1, 16, 30, occupancy=0.8)
    plan = planner().plan(snapshot, Budget(work=100))
    assert plan_violations(snapshot, plan) == []
    everyone = snapshot.requests.handle[16:]
    bad = {
        "unknown": {"admissions": np.array([10**9], np.uint64), "admit_at_steps": np.zeros(1)},
        "running": {"admissions": snapshot.requests.handle[:1], "admit_at_steps": np.zeros(1)},
        "too many": {"admissions": everyone, "admit_at_steps": np.zeros(len(everyone))},
        "lengths": {"admit_at_steps": np.zeros(len(plan.admissions) + 1)},
        "revision": {"based_on_revision": 99},
        "price": {"block_prices": np.full(len(plan.block_prices), -1.0)},
    }
    for name, change in bad.items():
        assert plan_violations(snapshot, dataclasses.replace(plan, **change)) != [], name


def test_a_larger_pool_never_costs_more() -> None:
    """The bound of the same requests falls, or stays, when blocks are added."""
    tight = random_problem(6, 24, 40)
    loose = dataclasses.replace(tight, tables=tight.tables._replace(capacity_blocks=tight.tables.capacity_blocks * 1.2))
    upper = float(tight.tables.cost_never[24:].sum())
    assert ascend(loose, no_prices(loose), upper, 100).value <= ascend(tight, no_prices(tight), upper, 100).value + 1e-6
