"""Whatever the child does, the caller gets a plan or None, and in the end a plan again."""

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from queues import long_queue

from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import SolverLate, SolverUnavailable
from kvhorizon.wire.resilient import ResilientSolver

HANG_S, GARBAGE_S = 666.0, 667.0  # moods of the stub planner


@pytest.fixture(scope="module")
def solver(stub_module):
    with ResilientSolver(lambda: SolverChild(module=stub_module), deadline_s=2.0, sleep=lambda s: None) as started:
        yield started


def plan_again(solver, limit_s=30.0):
    """The first plan that comes."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        plan = solver.plan(sample_snapshot())
        if plan is not None:
            return plan
        time.sleep(0.05)
    raise AssertionError(f"no plan within {limit_s} s: {solver.counts}")


def count_of(solver, name, act):
    before = Counter(solver.counts)
    assert act() is None
    return solver.counts[name] - before[name]


def test_a_crash_costs_one_plan_and_is_repaired(solver):
    pid = solver.child.pid
    assert solver.plan(sample_snapshot(1)) is not None
    os.kill(pid, signal.SIGKILL)
    assert count_of(solver, "crashed", lambda: solver.plan(sample_snapshot(2))) == 1
    assert plan_again(solver).based_on_revision == 1
    assert solver.child.pid != pid


def test_a_hang_costs_its_deadline_and_is_repaired(solver):
    hanging = replace(sample_snapshot(2), now_s=HANG_S)
    assert count_of(solver, "hung", lambda: solver.plan(hanging)) == 1
    assert count_of(solver, "absent", lambda: solver.plan(sample_snapshot(3))) == 1
    assert plan_again(solver).block_prices.tolist() == [1.0]


def test_a_child_that_stops_reading_is_replaced(solver):
    """gRPC waits for what is under way, and what does not fit into the socket any more is that for ever."""
    plan_again(solver)
    os.kill(solver.child.pid, signal.SIGSTOP)
    assert count_of(solver, "hung", lambda: solver.plan(long_queue(2))) == 1
    plan_again(solver)


def test_a_client_parts_from_a_service_that_stops_reading(stub_module):
    with SolverChild(module=stub_module) as child:
        client = Client(child.address)
        session = client.session()
        session.plan(sample_snapshot(1))
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(SolverLate):
            session.plan(long_queue(2), timeout_s=0.5)
        session.close()
        parting = threading.Thread(target=client.close, daemon=True)
        parting.start()
        parting.join(30.0)
        assert not parting.is_alive()
        child.kill()


def test_garbage_is_no_plan(solver):
    nonsense = replace(sample_snapshot(2), now_s=GARBAGE_S)
    assert count_of(solver, "garbage", lambda: solver.plan(nonsense)) == 1
    plan_again(solver)


def test_a_refused_snapshot_leaves_the_child_alone(solver):
    plan_again(solver)
    child = solver.child
    assert count_of(solver, "refused", lambda: solver.plan(replace(sample_snapshot(50), free_blocks=-1))) == 1
    assert solver.child is child
    assert solver.plan(sample_snapshot(51)) is not None


def test_revisions_that_begin_anew_meet_a_fresh_planner(solver):
    """The stub's price counts the plans of its session: 1, 2, then 1 again."""
    plan_again(solver)
    prices = [solver.plan(sample_snapshot(revision)).block_prices[0] for revision in (1, 2, 1)]
    assert prices == [1.0, 2.0, 1.0]


class Unborn:
    """A child that does not start."""

    def start(self):
        raise SolverUnavailable("not today")

    def kill(self):
        pass


def test_restarts_back_off(monkeypatch):
    """Pauses double from 0.5 s to 30 s: after seven of them the test stops it."""
    pauses = []

    def sleep(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 8:
            solver.stop()

    solver = ResilientSolver(Unborn, sleep=sleep)
    solver._replace(Unborn())
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert solver.counts["failed_starts"] == 8
