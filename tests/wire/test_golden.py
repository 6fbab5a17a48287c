"""Messages of the contract as an earlier release wrote them: this one reads them, and the earlier one reads this one's.

`golden/v1_*.bin` were written by the first release of contract version 1 and are never written again; a later
contract adds files beside them.
"""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from wire_strategies import differences

from experiments.fuzz._fuzz_seeds import later, plan
from kvhorizon.service.session import read_snapshot
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.state import Snapshot
from kvhorizon.wire.convert import decode_plan, encode_plan, encode_snapshot
from kvhorizon.wire.delta import apply_delta, encode_delta
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.validate import check_plan_for, check_snapshot, parse

GOLDEN = Path(__file__).parent / "golden"
UNKNOWN = b"\xfa\x7f\x03new"  # field 2047 of three bytes, as a later contract may add


def golden(name: str) -> bytes:
    return (GOLDEN / f"v1_{name}.bin").read_bytes()


RENAMED = {"Requests": {11: "out_of_order"}}  # fields with another name in text; on the wire the number counts
WITHDRAWN = {"Plan": {7: "victims", 10: "reserve_blocks"}}  # fields that an earlier release writes and none reads


def same(found: Snapshot, wanted: Snapshot) -> bool:
    """But for the last bits of the curves, which are computed anew here."""
    np.testing.assert_allclose(found.curves, wanted.curves, rtol=1e-9, atol=1e-300)
    return not differences(replace(found, curves=wanted.curves), wanted)


def test_a_snapshot_of_version_1_is_read() -> None:
    assert same(read_snapshot(parse(pb.Snapshot, golden("snapshot"))), sample_snapshot())


def test_a_plan_of_version_1_is_read() -> None:
    found = decode_plan(parse(pb.Plan, golden("plan")))
    assert not differences(found, plan())
    check_plan_for(found, sample_snapshot())


def test_a_session_of_version_1_is_followed() -> None:
    opened, delta = (parse(pb.Update, golden(name)) for name in ("open", "delta"))
    first = read_snapshot(opened.open.snapshot)
    assert same(first, sample_snapshot())
    second = apply_delta(first, delta.delta)
    check_snapshot(second)
    assert same(second, later(sample_snapshot()))


@pytest.mark.parametrize(("kind", "name"), [(pb.Snapshot, "snapshot"), (pb.Plan, "plan"), (pb.Update, "delta")])
def test_fields_of_a_later_contract_are_passed_over(kind: type, name: str) -> None:
    message = parse(kind, golden(name) + UNKNOWN)
    plain = parse(kind, golden(name))
    message.DiscardUnknownFields()
    plain.DiscardUnknownFields()  # what is withdrawn
    assert message == plain


def test_what_this_release_writes_is_what_version_1_wrote() -> None:
    """So an earlier end reads it: the same bytes for the same content, but for what is withdrawn."""
    first = read_snapshot(parse(pb.Snapshot, golden("snapshot")))
    assert encode_snapshot(first).SerializeToString(deterministic=True) == golden("snapshot")
    earlier_plan = parse(pb.Plan, golden("plan"))
    earlier_plan.DiscardUnknownFields()
    assert encode_plan(plan()).SerializeToString(deterministic=True) == earlier_plan.SerializeToString(
        deterministic=True
    )
    told = pb.Update(delta=encode_delta(first, later(first)))
    assert told.SerializeToString(deterministic=True) == golden("delta")


def test_version_1_has_every_field_that_it_had() -> None:
    """The golden description of the contract: fields may be added, or withdrawn and reserved, never changed."""
    old = descriptor_pb2.FileDescriptorProto.FromString(golden("contract"))
    # a pool of its own, since the two descriptions have one name
    pool = descriptor_pool.DescriptorPool()
    pool.Add(old)
    before = pool.FindFileByName(old.name)
    assert before.message_types_by_name
    for name, message in before.message_types_by_name.items():
        now = pb.DESCRIPTOR.message_types_by_name[name]
        withdrawn = WITHDRAWN.get(name, {})
        described = descriptor_pb2.DescriptorProto()
        now.CopyToProto(described)
        assert {number for part in described.reserved_range for number in range(part.start, part.end)} == set(withdrawn)
        assert set(described.reserved_name) == set(withdrawn.values())
        for field in message.fields:
            if withdrawn.get(field.number) == field.name:
                continue
            kept = now.fields_by_number[field.number]
            renamed = RENAMED.get(name, {}).get(field.number, field.name)
            assert (kept.name, kept.type, kept.is_packed) == (renamed, field.type, field.is_packed)
        assert message_factory.GetMessageClass(message) is not None


def test_the_golden_content_says_something() -> None:
    """Every column that requests had then, but the number of the only curve, has more than its default somewhere."""
    sample, later_columns = sample_snapshot(), {"shared_tokens"}
    for field in fields(sample.requests):
        assert field.name in {"forecast_curve", *later_columns} or np.any(getattr(sample.requests, field.name) != 0), (
            field.name
        )
