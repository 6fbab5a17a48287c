"""The real planner behind the service decides what it decides when called directly."""

import functools
import time

import numpy as np

from kvhorizon.service.main import planner_for
from kvhorizon.service.server import serve
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.search.budget import Budget
from kvhorizon.solver.program.search.planner import Planner, PlannerSettings
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.client import Client

WORK = Budget(work=100)


def direct(snapshots, knob):
    """Plans of one planner for the snapshots in turn."""
    planner = Planner(PlannerSettings(knob=knob), time.perf_counter)
    return [planner.plan(snapshot, WORK) for snapshot in snapshots]


def assert_same(plan, expected):
    """Equal but for the seconds it took."""
    for name in ("admissions", "admit_at_steps", "evictions", "bucket_steps", "block_prices"):
        np.testing.assert_array_equal(getattr(plan, name), getattr(expected, name), err_msg=name)
    for name in ("source", "based_on_revision", "objective", "bound", "work_units"):
        np.testing.assert_equal(getattr(plan, name), getattr(expected, name), err_msg=name)


def test_over_tcp_once_and_in_a_session():
    snapshots = [sample_snapshot(revision) for revision in (1, 2, 3)]
    expected = direct(snapshots, Knob.STRICT)
    strict = functools.partial(planner_for, Knob.STRICT)
    with serve("127.0.0.1:0", strict, WORK) as server, Client(server.address, timeout_s=30) as client:
        assert_same(client.plan_once(snapshots[0]), expected[0])
        with client.session() as session:
            for snapshot, plan in zip(snapshots, expected, strict=True):
                assert_same(session.plan(snapshot), plan)


def test_in_a_child_process():
    with SolverChild(["--work", "100", "--knob", "means"]) as child, Client(child.address, timeout_s=30) as client:
        assert_same(client.plan_once(sample_snapshot(1)), direct([sample_snapshot(1)], Knob.MEANS)[0])
