"""The client's end of a session, against a service that the test plays itself."""

from dataclasses import replace

import pytest

from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.failures import GarbagePlan, SolverLate, SolverUnavailable
from kvhorizon.wire.session import Session
from kvhorizon.wire.v1 import scheduler_pb2 as pb


class Call:
    """What gRPC returns for a stream: iterable, cancellable."""

    def __init__(self, answers):
        self._answers = answers

    def __iter__(self):
        return self._answers

    def cancel(self):
        pass


def session(service, timeout_s=5.0):
    """A session with `service(updates)`, a generator of answers."""
    return Session(lambda updates: Call(service(updates)), "here", timeout_s)


def plan(revision, **fields):
    return pb.Plan(based_on_revision=revision, source=pb.SOURCE_GREEDY, **fields)


def test_a_newer_snapshot_at_hand_answers_a_resync_in_full():
    """The service asks for a resync just when the client has something newer to send."""
    seen = []

    def service(updates):
        seen.append(next(updates))
        client.send(sample_snapshot(2))
        yield pb.Plan(resync=pb.Resync(reason="lost"))
        seen.append(next(updates))
        yield plan(2)

    with session(service) as client:
        client.send(sample_snapshot(1))
        client.wait(2)
    assert [update.open.snapshot.revision for update in seen] == [1, 2]


def test_new_facts_are_sent_in_full():
    def service(updates):
        kinds.append(next(updates).WhichOneof("kind"))
        yield plan(1)
        kinds.append(next(updates).WhichOneof("kind"))
        yield plan(2)
        kinds.append(next(updates).WhichOneof("kind"))
        yield plan(3, engine_epoch=4)

    kinds = []
    with session(service) as client:
        client.plan(sample_snapshot(1))
        client.plan(sample_snapshot(2))
        third = sample_snapshot(3)
        client.plan(replace(third, facts=replace(third.facts, engine_epoch=4)))
    assert kinds == ["open", "delta", "open"]


def test_a_plan_of_another_epoch_does_not_count():
    def service(updates):
        next(updates)
        yield plan(9, engine_epoch=1)
        next(updates, None)

    with session(service) as client, pytest.raises(SolverLate, match=r"no plan for revision 1 within 0.2 s"):
        client.plan(sample_snapshot(1), timeout_s=0.2)


def test_a_plan_that_is_none_ends_the_session():
    def service(updates):
        next(updates)
        yield plan(1, admissions=[7])

    with session(service) as client, pytest.raises(GarbagePlan, match=r"plan.admit_at_steps=0, must have 1 entries"):
        client.plan(sample_snapshot(1))


def test_a_reader_that_breaks_ends_the_session():
    def service(updates):
        next(updates)
        yield "no message"

    with session(service) as client, pytest.raises(SolverUnavailable, match="reading plans failed: AttributeError"):
        client.plan(sample_snapshot(1))


def test_a_closed_session_says_so():
    client = session(lambda updates: iter(()))
    client.close()
    with pytest.raises(SolverUnavailable, match="the session is closed"):
        client.send(sample_snapshot(1))
