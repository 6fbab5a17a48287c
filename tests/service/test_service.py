"""The service over real sockets answers what the planner answers, and survives what is wrong."""

import threading
import time
from dataclasses import replace
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from queues import long_queue
from stub_planner import BROKEN_S, REFUSE_S, Gate, StubPlanner, admit_all

from kvhorizon.errors import InputError
from kvhorizon.service.server import serve
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.state import Requests
from kvhorizon.wire.channel import SERVICE, connect
from kvhorizon.wire.client import Client
from kvhorizon.wire.convert import COLUMNS, encode_snapshot
from kvhorizon.wire.failures import SolverRefused, SolverUnavailable
from kvhorizon.wire.pruned import MOST_WAITING
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.v1 import scheduler_pb2_grpc as stubs


@pytest.fixture(scope="module")
def server():
    with serve("127.0.0.1:0", StubPlanner, None, metrics_port=0) as running:
        running.serving()
        yield running


@pytest.fixture
def client(server):
    with Client(server.address) as connected:
        yield connected


def eventually(holds, limit_s=5.0):
    """Whether it comes to hold within the limit."""
    deadline_s = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return holds()


def metrics(server):
    """Name and labels -> value."""
    text = urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=5).read().decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def assert_same(plan, expected):
    assert plan.based_on_revision == expected.based_on_revision
    for name in ("admissions", "admit_at_steps", "evictions", "block_prices"):
        np.testing.assert_array_equal(getattr(plan, name), getattr(expected, name))
    assert plan.source is expected.source


def stepped(snapshot, leave=()):
    """The next moment: running requests gain a token, those named leave, one more of the waiting runs."""
    keep = ~np.isin(snapshot.requests.handle, np.array(leave, dtype=np.uint64))
    table = {c.name: getattr(snapshot.requests, c.name)[keep] for c in COLUMNS}
    table["generated_tokens"] = table["generated_tokens"] + (np.arange(keep.sum()) < snapshot.num_running)
    return replace(
        snapshot, revision=snapshot.revision + 1, now_s=snapshot.now_s + 0.1, requests=Requests(**table), num_running=5
    )


def test_a_plan_over_tcp_is_the_planners_plan(client):
    snapshot = sample_snapshot(7)
    assert_same(client.plan_once(snapshot), admit_all(snapshot))


def test_a_plan_over_a_private_unix_socket_is_the_planners_plan(tmp_path):
    path = tmp_path / "private" / "solver.sock"
    with serve(f"unix:{path}", StubPlanner, None) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with Client(server.address) as client:
            assert_same(client.plan_once(sample_snapshot(7)), admit_all(sample_snapshot(7)))
        with pytest.raises(InputError, match="another service listens there"):
            serve(f"unix:{path}", StubPlanner, None)
    assert not path.exists()


def test_a_session_of_deltas_plans_as_full_snapshots_would(client):
    """The planner of a session is kept: its price, the plans so far, counts 1, 2, 3."""
    one = sample_snapshot(1)
    two = stepped(one, leave=[2, 9])
    three = stepped(two)
    with client.session() as session:
        for count, snapshot in enumerate((one, two, three), start=1):
            assert_same(session.plan(snapshot), admit_all(snapshot, price=count))
        assert session.resyncs == 0
        assert session.newest.based_on_revision == 3


def test_sessions_know_nothing_of_each_other(client):
    with client.session() as first, client.session() as second:
        first.plan(sample_snapshot(1))
        assert_same(second.plan(sample_snapshot(5)), admit_all(sample_snapshot(5)))


def test_bad_input_is_named_and_ends_its_own_session_only(server, client):
    before = metrics(server)["kvhorizon_invalid_messages_total"]
    bad = replace(sample_snapshot(2), free_blocks=-3)
    with client.session() as healthy, client.session() as broken:
        healthy.plan(sample_snapshot(1))
        with pytest.raises(SolverRefused, match=r"free_blocks=-3, must be within 0 ... 120 \(INVALID_ARGUMENT\)"):
            broken.plan(bad)
        with pytest.raises(SolverRefused, match="free_blocks=-3"):
            client.plan_once(bad)
        assert_same(healthy.plan(sample_snapshot(2)), admit_all(sample_snapshot(2), price=2))
    assert metrics(server)["kvhorizon_invalid_messages_total"] == before + 2


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b""], ids=["garbage", "empty"])
def test_bytes_that_are_no_snapshot_are_refused(server, raw):
    call = connect(server.address).unary_unary(f"/{SERVICE}/PlanOnce")
    with pytest.raises(grpc.RpcError) as caught:
        call(raw, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() in (
        "message: not a kvhorizon.v1.Snapshot (3 bytes)",
        "facts: missing from the snapshot",
    )


def test_a_message_too_large_is_refused_cleanly(server, client):
    call = grpc.insecure_channel(server.address, options=[("grpc.max_send_message_length", -1)])
    with pytest.raises(grpc.RpcError) as caught:
        call.unary_unary(f"/{SERVICE}/PlanOnce")(bytes(64 * 2**20 + 1), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_same(client.plan_once(sample_snapshot()), admit_all(sample_snapshot()))


def raw_session(server, updates):
    """A session whose messages the test writes itself; the iterator of updates may block to keep it open."""
    stub = stubs.PlannerStub(connect(server.address))
    return stub.Session(iter(updates), timeout=10)


def test_a_delta_on_an_unknown_base_asks_for_a_resync_once(server):
    """Two deltas on nothing, then the full state: one resync, then a plan."""
    opening = pb.Update(open=pb.Open(snapshot=encode_snapshot(sample_snapshot(3))))
    lost = pb.Update(delta=pb.Delta(base_revision=41, revision=42))
    resync_seen = threading.Event()

    def updates():
        yield lost
        yield lost
        assert resync_seen.wait(5)
        yield opening

    answers = raw_session(server, updates())
    first = next(answers)
    assert first.HasField("resync")
    assert first.resync.reason == "base_revision=41 is not what the service holds"
    resync_seen.set()
    assert [plan.based_on_revision for plan in answers] == [3]


def test_a_client_asked_to_resync_sends_everything_again(client):
    with client.session() as session:
        session.plan(sample_snapshot(1))
        session._sent = replace(sample_snapshot(1), revision=99)  # it believes what the service does not hold
        snapshot = sample_snapshot(100)
        assert_same(session.plan(snapshot), admit_all(snapshot, price=2))
        assert session.resyncs == 1


def test_an_update_of_no_kind_is_refused(server):
    with pytest.raises(grpc.RpcError, match="update: must be open or delta"):
        next(raw_session(server, [pb.Update()]))


def test_the_newest_snapshot_wins_and_the_others_are_counted():
    """While the first plan is made, five more snapshots come: the last is planned for, four are dropped."""
    gate = Gate()

    def updates():
        for revision in range(1, 7):
            yield pb.Update(open=pb.Open(snapshot=encode_snapshot(sample_snapshot(revision))))
            assert gate.entered.wait(5)
        assert eventually(lambda: server.metrics.dropped._value.get() == 4)
        gate.opened.set()

    with serve("127.0.0.1:0", lambda: gate, None) as server:
        plans = list(raw_session(server, updates()))
    assert [plan.based_on_revision for plan in plans] == [1, 6]
    assert list(plans[1].block_prices) == [2.0]


def test_a_planner_that_fails_or_refuses_says_so(server, client):
    with pytest.raises(SolverUnavailable, match="the planner failed: ZeroDivisionError"):
        client.plan_once(replace(sample_snapshot(), now_s=BROKEN_S))
    with pytest.raises(SolverRefused, match="must be another day"):
        client.plan_once(replace(sample_snapshot(), now_s=REFUSE_S))
    assert metrics(server)["kvhorizon_planner_failures_total"] == 1


def test_there_is_room_for_so_many_sessions():
    with serve("127.0.0.1:0", StubPlanner, None, max_sessions=1) as server, Client(server.address) as client:
        with client.session() as first, client.session() as second:
            first.plan(sample_snapshot())
            with pytest.raises(SolverRefused, match="sessions=1 already, must be fewer"):
                second.plan(sample_snapshot())
        assert eventually(lambda: server.metrics.sessions._value.get() == 0)
        with client.session() as third:
            third.plan(sample_snapshot())


def test_explanations_say_what_the_plan_does(client):
    """Request 7 is admitted at step 0, 8 at step 1; 1 goes on running."""
    reply = client.explain(sample_snapshot(), [7, 8, 1])
    assert [e.handle for e in reply.explanations] == [7, 8, 1]
    decisions = [e.decision for e in reply.explanations]
    assert decisions == [pb.DECISION_ADMIT_NOW, pb.DECISION_ADMIT_LATER, pb.DECISION_KEEP]
    assert [e.rank for e in reply.explanations if e.HasField("rank")] == [0, 1]
    assert reply.explanations[0].text.startswith("admit now, number 1: its 140 tokens need 9 blocks at 1 s each")
    with pytest.raises(SolverRefused, match="handle=77, must be a live request"):
        client.explain(sample_snapshot(), [77])


def test_the_newest_plan_of_a_session_is_explained(client):
    """Without planning anew; it goes with the session."""
    snapshot = sample_snapshot()
    with client.session() as session:
        plan = session.plan(snapshot)
        reply = client.explain_session(snapshot.facts.engine_id, [7])
        assert reply.plan.based_on_revision == plan.based_on_revision
        assert list(reply.plan.block_prices) == plan.block_prices.tolist()
        assert reply.explanations[0].decision == pb.DECISION_ADMIT_NOW
        with pytest.raises(SolverRefused, match="handle=77, must be a live request"):
            client.explain_session(snapshot.facts.engine_id, [77])
        with pytest.raises(SolverRefused, match="engine_id='other', must have a session"):
            client.explain_session("other")

    def gone():
        try:
            client.explain_session(snapshot.facts.engine_id)
        except SolverRefused:
            return True
        return False

    assert eventually(gone)


def test_health_and_reflection_name_the_service(server, client):
    assert client.ready()
    stub = reflection_pb2_grpc.ServerReflectionStub(connect(server.address))
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
    assert reply.file_descriptor_response.file_descriptor_proto


def test_it_is_not_reported_as_serving_before_it_is_warm():
    with serve("127.0.0.1:0", StubPlanner, None) as server, connect(server.address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_metrics_are_exposed(server, client):
    before = metrics(server)
    client.plan_once(sample_snapshot())
    after = metrics(server)
    for name in ('kvhorizon_plans_total{source="greedy"}', "kvhorizon_plan_seconds_count", "kvhorizon_plan_gap_count"):
        assert after[name] == before.get(name, 0.0) + 1
    for name in ("kvhorizon_sessions", "kvhorizon_resyncs_total", "kvhorizon_snapshots_dropped_total"):
        assert name in after


def test_an_address_in_use_is_named(server):
    with pytest.raises(InputError, match=f"listen='{server.address}', cannot be bound"):
        serve(server.address, StubPlanner, None)
    with pytest.raises(InputError, match=r"metrics_port=.*, cannot be bound"):
        serve("127.0.0.1:0", StubPlanner, None, metrics_port=server.metrics_port)


@pytest.mark.parametrize("listen", ["nowhere", "host:", "host:99999", "unix:relative", "unix:/" + "x" * 120])
def test_an_address_of_no_form_is_refused(listen):
    with pytest.raises(InputError, match="address="):
        serve(listen, StubPlanner, None)


def test_a_queue_of_any_length_is_planned_for(client):
    with client.session() as session:
        first, second = (session.plan(long_queue(revision, 100_000), 60.0) for revision in (1, 2))
        assert len(first.admissions) == len(second.admissions) == MOST_WAITING
