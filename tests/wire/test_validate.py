"""Every rule at the edge refuses what breaks it, by field, value and rule, and passes what does not."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from wire_strategies import snapshots

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.survival import GRID_POINTS
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.state import Habits, Plan, Source
from kvhorizon.wire import validate
from kvhorizon.wire.v1 import scheduler_pb2 as pb


def with_entry(name, at, value):
    """The sample with one entry of one column changed."""
    snapshot = sample_snapshot()
    values = getattr(snapshot.requests, name).copy()
    values[at] = value
    return replace(snapshot, requests=replace(snapshot.requests, **{name: values}))


def with_fact(**changes):
    snapshot = sample_snapshot()
    return replace(snapshot, facts=replace(snapshot.facts, **changes))


def with_cost(**changes):
    return with_fact(cost=sample_snapshot().facts.cost._replace(**changes))


def with_habit(**changes):
    return replace(sample_snapshot(), habits=Habits(**changes))


def with_curve(at, value):
    snapshot = sample_snapshot()
    curves = snapshot.curves.copy()
    curves[at] = value
    return replace(snapshot, curves=curves)


BAD = [
    (with_fact(total_blocks=0), "facts.total_blocks=0, must be within 1 ... 2147483647"),
    (with_fact(contract_version=0), "facts.contract_version=0, must be >= 1"),
    (with_fact(engine_id="x" * 257), "facts.engine_id=257, must have <= 256 characters"),
    (with_cost(fixed_s=-1.0), "facts.cost.fixed_s=-1.0, must be finite and >= 0"),
    (with_cost(smooth=0.5), "facts.cost.smooth=0.5, must be >= 1"),
    (with_cost(experts_per_token=2.0), "facts.cost.experts_per_token=2.0, must be <= 1"),
    (with_fact(window_tokens=-1), "facts.window_tokens=-1, must be within 0 ... 2147483647"),
    (with_habit(tokens_per_step=0.0), "habits.tokens_per_step=0.0, must be > 0"),
    (with_habit(kept_share=1.5), "habits.kept_share=1.5, must be <= 1"),
    (with_habit(reload_s_per_token=math.nan), "habits.reload_s_per_token=nan, must be finite and >= 0"),
    (replace(sample_snapshot(), now_s=math.inf), "now_s=inf, must be finite and >= 0"),
    (replace(sample_snapshot(), step_s=-0.1), "step_s=-0.1, must be finite and >= 0"),
    (replace(sample_snapshot(), free_blocks=121), "free_blocks=121, must be within 0 ... 120"),
    (replace(sample_snapshot(), num_running=19), "num_running=19, must be within 0 ... 18"),
    (with_entry("handle", 4, 1), "requests.handle=1, must be unique"),
    (with_entry("arrival_s", 2, math.nan), "requests.arrival_s[2]=nan, must be finite and >= 0"),
    (with_entry("prompt_tokens", 3, -1), "requests.prompt_tokens[3]=-1, must be within 0 ... 2147483647"),
    (with_entry("preemptions", 0, 2**31), "requests.preemptions[0]=2147483648, must be within 0 ... 2147483647"),
    (with_entry("blocks_held", 5, 121), "requests.blocks_held[5]=121, must be within 0 ... 120"),
    (with_entry("weight", 1, -2.0), "requests.weight[1]=-2.0, must be finite and >= 0"),
    (with_entry("forecast_kind", 1, 3), "requests.forecast_kind[1]=3, must be 0, 1 or 2"),
    (with_entry("forecast_scale", 1, 0.0), "requests.forecast_scale[1]=0.0, must be > 0 where forecast"),
    (with_entry("forecast_curve", 2, 1), "requests.forecast_curve[2]=1, must be a row of the 1 curves"),
    (with_curve((0, 511), 0.5), "curves.survival[510]=0.5, must never rise along a curve"),
    (with_curve((0, 0), 1.5), "curves.survival[0]=1.5, must be within 0 ... 1"),
    (replace(sample_snapshot(), curves=np.ones((1, 8))), "curves.points=8, must be 512"),
]


@pytest.mark.parametrize(("snapshot", "text"), BAD, ids=[text for _, text in BAD])
def test_a_bad_snapshot_is_refused_by_name_value_and_rule(snapshot, text):
    with pytest.raises(InputError, match=re.escape(text)):
        validate.check_snapshot(snapshot)


@settings(max_examples=40, deadline=None)
@given(snapshots())
def test_good_snapshots_pass(snapshot):
    validate.check_snapshot(snapshot)


def test_too_many_requests_are_refused_before_decoding():
    message = pb.Requests(handle=range(65_537))
    with pytest.raises(InputError, match=r"requests.handle=65537, must have <= 65536 entries"):
        validate.check_size(message)


def test_bytes_that_are_no_message_are_refused():
    with pytest.raises(InputError, match=r"message: not a kvhorizon.v1.Snapshot \(3 bytes\)"):
        validate.parse(pb.Snapshot, b"\xff\xff\xff")


def test_the_grid_is_the_one_of_the_survival_curves():
    assert validate.CURVE_POINTS == GRID_POINTS


def plan(**changes):
    """Of the sample: admits 7, evicts 2; bucket prices of two buckets."""
    handles = {"admissions": [7], "evictions": [2]}
    handles.update({name: changes.pop(name) for name in list(changes) if name in handles})
    base = Plan(
        engine_epoch=0,
        based_on_revision=1,
        source=Source.GREEDY,
        admit_at_steps=np.zeros(len(handles["admissions"])),
        bucket_steps=np.array([0.0, 8.0]),
        block_prices=np.array([0.1, 0.0]),
        **{name: np.array(values, dtype=np.uint64) for name, values in handles.items()},
    )
    return replace(base, **changes)


BAD_PLANS = [
    (plan(engine_epoch=5), "plan.engine_epoch=5, must be 0"),
    (plan(based_on_revision=2), "plan.based_on_revision=2, must be 1"),
    (plan(admissions=[1]), "plan.admissions[0]=1, must be a waiting request"),
    (plan(admissions=[7, 7]), "plan.admissions=7, must be unique"),
    (plan(evictions=[7]), "plan.evictions[0]=7, must be a running request"),
    (plan(evictions=[2, 2]), "plan.evictions=2, must be unique"),
    (plan(admit_at_steps=np.zeros(2)), "plan.admit_at_steps=2, must have 1 entries"),
    (plan(block_prices=np.array([np.nan, 0.0])), "plan.block_prices[0]=nan, must be finite and >= 0"),
]


@pytest.mark.parametrize(("bad", "text"), BAD_PLANS, ids=[text for _, text in BAD_PLANS])
def test_a_bad_plan_is_refused(bad, text):
    with pytest.raises(InputError, match=re.escape(text)):
        validate.check_plan_for(bad, sample_snapshot())


def test_a_good_plan_passes():
    validate.check_plan_for(plan(), sample_snapshot())
