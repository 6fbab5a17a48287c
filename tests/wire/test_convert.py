"""Messages and state convert into each other without loss, through bytes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from wire_strategies import differences, plans, snapshots

from kvhorizon.errors import InputError
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.state import Habits
from kvhorizon.wire.convert import COLUMNS, decode_plan, decode_snapshot, encode_plan, encode_snapshot
from kvhorizon.wire.v1 import scheduler_pb2 as pb


@settings(max_examples=60, deadline=None)
@given(snapshots())
def test_any_snapshot_survives_the_wire(snapshot):
    raw = encode_snapshot(snapshot).SerializeToString()
    assert differences(snapshot, decode_snapshot(pb.Snapshot.FromString(raw))) == []


@settings(max_examples=60, deadline=None)
@given(plans())
def test_any_plan_survives_the_wire(plan):
    raw = encode_plan(plan).SerializeToString()
    assert differences(plan, decode_plan(pb.Plan.FromString(raw))) == []


def test_a_foreign_engine_may_leave_out_columns_and_the_p_norm():
    """Two requests with only the columns that have no default: weight 1, no forecast, nothing cached, p-norm 2."""
    required = [column.name for column in COLUMNS if column.default is None]
    message = pb.Snapshot(facts=pb.EngineFacts(total_blocks=10))
    for name in required:
        getattr(message.requests, name).extend([1, 2])
    snapshot = decode_snapshot(message)
    assert snapshot.facts.cost.smooth == 2.0
    assert snapshot.requests.weight.tolist() == [1.0, 1.0]
    assert snapshot.requests.forecast_kind.tolist() == [0, 0]
    assert snapshot.requests.forecast_kind.dtype == np.uint8


def test_columns_of_defaults_stay_off_the_wire():
    message = encode_snapshot(sample_snapshot())
    assert len(message.requests.weight) == 0
    assert len(message.requests.out_of_order) == 18


def test_of_an_older_engine_no_habits_are_known():
    """It sends none: a token per step, and what is evicted is computed again."""
    message = encode_snapshot(replace(sample_snapshot(), habits=Habits(2.5, 0.9, 1e-6)))
    message.ClearField("habits")
    assert decode_snapshot(message).habits == Habits(1.0, 0.0, 0.0)


def test_what_a_later_contract_adds_is_ignored():
    """Field 200, unknown to us, of a newer sender."""
    raw = encode_snapshot(sample_snapshot()).SerializeToString()
    newer = raw + bytes([0b1100_0000, 0x0C, 7])  # field 200, varint, value 7
    assert differences(sample_snapshot(), decode_snapshot(pb.Snapshot.FromString(newer))) == []


def test_a_column_of_another_length_is_named():
    message = encode_snapshot(sample_snapshot())
    message.requests.prompt_tokens.append(1)
    with pytest.raises(InputError, match=r"requests.prompt_tokens=19, must have 18 entries"):
        decode_snapshot(message)


def test_tables_must_be_whole():
    message = encode_snapshot(sample_snapshot())
    message.curves.survival.pop()
    with pytest.raises(InputError, match=r"curves.survival=511, must have curves \* points = 512 entries"):
        decode_snapshot(message)


def test_a_plan_without_source_is_no_plan():
    with pytest.raises(InputError, match=r"plan.source=0, must be"):
        decode_plan(pb.Plan())
