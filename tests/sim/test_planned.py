"""Replays that follow a real solver child over gRPC: its plans are used, and its death is survived."""

import dataclasses
import os
import signal

import numpy as np
import pytest
from engines import facts, random_trace

from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.expiry import PLAN_MAX_AGE_S
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.resilient import ResilientSolver

WORK = 100
PATIENCE_S = 120.0  # with a plan: what is compared must not depend on how busy the machine is


class KilledAfter:
    """A real child that gets SIGKILL after so many plans; `pause` keeps it from coming back during the run."""

    def __init__(self, solver: ResilientSolver, plans: int) -> None:
        self.solver, self.plans, self.asked = solver, plans, 0

    def plan(self, snapshot: Snapshot) -> Plan | None:
        self.asked += 1
        if self.asked == self.plans and self.solver.child is not None:
            os.kill(self.solver.child.pid or 0, signal.SIGKILL)
        return self.solver.plan(snapshot)


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup(random_trace(5, 300, 120 * 16, 30.0), facts(400, 16, 64, 512), forecast="noisy:0.6")


@pytest.mark.parametrize("knob", [Knob.BALANCED, Knob.MEANS])
def test_over_grpc_as_in_process(setup: Setup, knob: Knob) -> None:
    """The same plans, so the same run, to the last bit."""
    policy = parse_policy(f"kvhorizon/{knob}")
    near = replay(setup, policy, InProcess(knob, WORK))
    with ResilientSolver(lambda: SolverChild(["--work", str(WORK), "--knob", knob]), PATIENCE_S) as solver:
        far = replay(setup, policy, solver)
    assert near.plans == far.plans
    assert near.plans["program"] > 10
    assert near.plans["local"] == 0
    np.testing.assert_array_equal(near.finish_s, far.finish_s)


def test_a_solver_killed_in_mid_run_is_survived(setup: Setup) -> None:
    with ResilientSolver(lambda: SolverChild(["--work", str(WORK)]), sleep=lambda _: None) as solver:
        outcome = replay(setup, parse_policy("kvhorizon"), KilledAfter(solver, 5))
    assert np.isfinite(outcome.finish_s).all()
    assert outcome.plans["program"] >= 4
    assert outcome.plans["local"] >= 1


def test_without_a_solver_the_greedy_decides(setup: Setup) -> None:
    """Every plan is missing, every decision local, and the run is the greedy's own."""
    alone = replay(setup, parse_policy("kvhorizon"), None)
    greedy = replay(setup, parse_policy("kvhorizon:greedy"))
    assert alone.plans["program"] == 0 < alone.plans["local"]
    assert alone.preemptions.sum() <= 1.5 * greedy.preemptions.sum() + 10
    assert np.isfinite(alone.finish_s).all()


def test_plans_are_worth_asking_for(setup: Setup) -> None:
    """Beside the same rule at the step, the program gets first tokens out sooner."""
    planned = replay(setup, parse_policy("kvhorizon"), InProcess(work=WORK))
    alone = replay(setup, parse_policy("kvhorizon:edge-only"))
    waits = [(run.first_token_s - setup.trace.arrival_s).mean() for run in (planned, alone)]
    assert waits[0] < waits[1]


def test_plans_take_effect_after_their_delay(setup: Setup) -> None:
    """A plan that arrives too late to matter changes the run; none is lost."""
    soon = replay(setup, parse_policy("kvhorizon"), InProcess(work=WORK))
    late = replay(dataclasses.replace(setup, delay_s=0.09), parse_policy("kvhorizon"), InProcess(work=WORK))
    assert late.plans["program"] > 0
    assert (late.finish_s != soon.finish_s).any()


class Silent:
    """The solver's plans without their admissions."""

    def __init__(self) -> None:
        self.solver = InProcess(work=WORK)

    def plan(self, snapshot: Snapshot) -> Plan | None:
        plan = self.solver.plan(snapshot)
        none = np.zeros(0)
        return plan and dataclasses.replace(plan, admissions=none.astype(np.uint64), admit_at_steps=none)


@pytest.mark.parametrize(("delay_s", "followed"), [(PLAN_MAX_AGE_S - 0.1, True), (PLAN_MAX_AGE_S + 0.1, False)])
def test_what_a_plan_says_counts_until_its_state_is_two_seconds_old(
    setup: Setup, delay_s: float, followed: bool
) -> None:
    """From a solver that takes longer, all plans are counted as stale, and their admissions change nothing."""
    late = dataclasses.replace(setup, delay_s=delay_s)
    told, silent = (replay(late, parse_policy("kvhorizon"), solver) for solver in (InProcess(work=WORK), Silent()))
    assert told.plans["program"] > 10
    assert np.array_equal(told.finish_s, silent.finish_s) is not followed
    if not followed:
        made = told.plans["program"] + told.plans["greedy"]
        assert told.plans["stale"] in (made, made - 1), "the run may end before the last one would have come"
