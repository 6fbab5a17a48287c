"""A delta applied to the old snapshot is the new snapshot."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_strategies import differences, snapshots, successors

from kvhorizon.errors import InputError
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.state import Requests
from kvhorizon.wire.convert import COLUMNS
from kvhorizon.wire.delta import apply_delta, can_follow, encode_delta
from kvhorizon.wire.v1 import scheduler_pb2 as pb


def rows(snapshot, chosen, **changes):
    """The next snapshot, of the chosen rows, with whole columns changed."""
    table = {c.name: getattr(snapshot.requests, c.name)[chosen] for c in COLUMNS}
    return replace(snapshot, revision=snapshot.revision + 1, num_running=3, requests=Requests(**{**table, **changes}))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_chain_of_deltas_equals_the_full_snapshots(data):
    held = snapshot = data.draw(snapshots(max_requests=8))
    for _ in range(2):
        snapshot, before = data.draw(successors(snapshot)), snapshot
        assert can_follow(before, snapshot)
        message = pb.Delta.FromString(encode_delta(before, snapshot).SerializeToString())
        held = apply_delta(held, message)
        assert differences(snapshot, held) == []


def test_one_step_sends_progress_only():
    """18 requests, the first 6 gain one token each: 6 short rows, no complete ones, no order."""
    old = sample_snapshot()
    more = old.requests.generated_tokens + (np.arange(18) < 6)
    message = encode_delta(old, rows(old, np.arange(18), generated_tokens=more))
    assert len(message.progress.handle) == 6
    assert not message.HasField("rows")
    assert not message.HasField("order")
    assert not message.removed


def test_leaving_and_arriving_needs_no_order():
    """Handle 1 leaves, 18 is new to the holder of 1 … 17: one removed, one row."""
    full = sample_snapshot()
    old = rows(full, np.arange(17))
    message = encode_delta(old, replace(rows(full, np.arange(1, 18)), revision=9))
    assert list(message.removed) == [1]
    assert list(message.rows.handle) == [18]
    assert not message.HasField("order")


def test_a_preemption_sends_the_order():
    old = sample_snapshot()
    order = np.r_[0, 2:6, 1, 6:18]
    message = encode_delta(old, rows(old, order))
    assert list(message.order.handle) == (order + 1).tolist()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.Delta(revision=1), "revision=1, must be > base_revision = 1"),
        (pb.Delta(revision=2, removed=[99]), "removed=99, must be a live request"),
        (pb.Delta(revision=2, removed=[3, 3]), "removed=3, must be unique"),
        (pb.Delta(revision=2, progress=pb.Progress(handle=[1])), "progress.generated_tokens=0, must have 1 entries"),
        (pb.Delta(revision=2, rows=pb.Requests(handle=[1])), "rows.arrival_s=0, must have 1 entries"),
        (pb.Delta(revision=2, order=pb.Order(handle=[1])), "order.handle=1, must have 18 entries"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(message, text):
    with pytest.raises(InputError, match=text):
        apply_delta(sample_snapshot(), message)
