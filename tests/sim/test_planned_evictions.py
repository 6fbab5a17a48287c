"""Evictions that a plan asks for, in the simulator: only where evicted KV is reloaded, and within the gates."""

import dataclasses

import numpy as np
import pytest
from engines import facts, random_trace

from kvhorizon.sim.engine.arrays import FREE, PREEMPTED, Engine
from kvhorizon.sim.policies import plan_follower as planned
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.plan_follower import evict
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.settings import EVICT_OCCUPANCY
from kvhorizon.state import Plan, Snapshot

WORK = 100
TOTAL = 400  # blocks
RELOAD_S = 5e-6


class Evicting:
    """The solver's plans, each with an eviction of the request that runs first in the list, and what there was."""

    def __init__(self, knob: Knob) -> None:
        self.solver = InProcess(knob, WORK)
        self.occupancy: list[float] = []

    def plan(self, snapshot: Snapshot) -> Plan | None:
        plan = self.solver.plan(snapshot)
        self.occupancy.append(1.0 - snapshot.free_blocks / snapshot.facts.total_blocks)
        return None if plan is None else dataclasses.replace(plan, evictions=snapshot.requests.handle[:1])


class EvictingAny(Evicting):
    """The same with another request each time."""

    def plan(self, snapshot: Snapshot) -> Plan | None:
        plan = super().plan(snapshot)
        n = len(self.occupancy) % max(snapshot.num_running, 1)
        return None if plan is None else dataclasses.replace(plan, evictions=snapshot.requests.handle[n : n + 1])


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup(random_trace(5, 300, 120 * 16, 30.0), facts(TOTAL, 16, 64, 512), forecast="noisy:0.6")


def test_with_reload_they_are_carried_out_and_no_request_is_lost(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, solver, done = dataclasses.replace(setup, reload_s_per_token=RELOAD_S), Evicting(Knob.MEANS), []

    def noted(engine: Engine, n: int) -> None:
        before = int(engine.counters[PREEMPTED])
        evict(engine, n)
        done.append((1.0 - engine.counters[FREE] / TOTAL, int(engine.counters[PREEMPTED]) - before))

    monkeypatch.setattr(planned, "evict", noted)
    outcome = replay(setup, parse_policy("kvhorizon/means"), solver)
    assert np.isfinite(outcome.finish_s).all()
    assert sum(count for _, count in done) > 10
    assert len(done) < sum(share >= EVICT_OCCUPANCY - 0.05 for share in solver.occupancy)  # gated
    assert outcome.recompute_tokens.sum() < 16 * outcome.preemptions.sum()  # less than a block each


def test_without_reload_they_are_not(setup: Setup) -> None:
    outcome = replay(setup, parse_policy("kvhorizon"), Evicting(Knob.BALANCED))
    alone = replay(setup, parse_policy("kvhorizon"), InProcess(Knob.BALANCED, WORK))
    np.testing.assert_array_equal(outcome.finish_s, alone.finish_s)
    np.testing.assert_array_equal(outcome.preemptions, alone.preemptions)


def test_a_budget_of_reordering_gives_back_what_it_granted_only(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, out_of_order = dataclasses.replace(setup, reload_s_per_token=RELOAD_S), []

    def noted(engine: Engine, n: int) -> None:
        out_of_order.append(bool(engine.columns.out_of_order[n]))
        evict(engine, n)

    monkeypatch.setattr(planned, "evict", noted)
    replay(setup, parse_policy("kvhorizon"), EvictingAny(Knob.BALANCED))
    assert out_of_order
    assert all(out_of_order)
