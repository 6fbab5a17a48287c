"""Hypothesis strategies and comparisons for snapshots and plans, shared by the wire tests."""

import math
from dataclasses import fields, replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kvhorizon.state import EngineFacts, Habits, Plan, Requests, Snapshot, Source, StepCost
from kvhorizon.wire.validate import CURVE_POINTS, MAX_COUNT

counts = st.integers(0, MAX_COUNT)
reals = st.floats(0.0, 1e12, allow_nan=False)
u64 = st.integers(0, 2**64 - 1)


def column(n, dtype, elements):
    return hnp.arrays(dtype, n, elements=elements)


@st.composite
def facts(draw):
    cost = StepCost(*(draw(reals) for _ in StepCost._fields))
    cost = cost._replace(smooth=1.0 + cost.smooth, experts_per_token=draw(st.floats(0, 1)))
    sizes = {
        name: draw(st.integers(1, MAX_COUNT))
        for name in ("total_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
    }
    window = draw(st.integers(0, MAX_COUNT))
    return EngineFacts(
        **sizes, cost=cost, engine_id=draw(st.text(max_size=20)), engine_epoch=draw(u64), window_tokens=window
    )


habits = st.builds(
    Habits,
    tokens_per_step=st.floats(1e-3, 1e3),
    kept_share=st.floats(0, 1),
    reload_s_per_token=reals,
)


@st.composite
def columns(draw, handles, total_blocks, num_curves):
    n = len(handles)
    kind = draw(column(n, np.uint8, st.integers(0, 2 if num_curves else 1)))
    prompt = draw(column(n, np.int64, counts))
    return Requests(
        handle=np.array(handles, dtype=np.uint64),
        arrival_s=draw(column(n, np.float64, reals)),
        prompt_tokens=prompt,
        generated_tokens=draw(column(n, np.int64, counts)),
        computed_tokens=draw(column(n, np.int64, counts)),
        blocks_held=draw(column(n, np.int64, st.integers(0, total_blocks))),
        output_limit_tokens=draw(column(n, np.int64, counts)),
        preemptions=draw(column(n, np.int64, counts)),
        cached_tokens=draw(column(n, np.int64, counts)),
        weight=draw(column(n, np.float64, reals)),
        out_of_order=draw(column(n, np.uint8, st.integers(0, 1))),
        forecast_kind=kind,
        forecast_scale=draw(column(n, np.float64, st.floats(1e-3, 1e9))),
        forecast_log_sigma=draw(column(n, np.float64, reals)),
        shared_tokens=np.minimum(draw(column(n, np.int64, counts)), prompt),
        forecast_curve=np.where(kind == 2, draw(column(n, np.int64, st.integers(0, max(num_curves - 1, 0)))), -1),
    )


@st.composite
def snapshots(draw, max_requests=12):
    f = draw(facts())
    handles = draw(st.lists(u64, unique=True, max_size=max_requests))
    num_curves = draw(st.integers(0, 2))
    steps = draw(column((num_curves, 4), np.float64, st.floats(0, 1)))
    curves = np.repeat(-np.sort(-steps, axis=1), CURVE_POINTS // 4, axis=1)
    return Snapshot(
        facts=f,
        revision=draw(st.integers(0, 2**63)),
        now_s=draw(reals),
        free_blocks=draw(st.integers(0, f.total_blocks)),
        step_s=draw(reals),
        num_running=draw(st.integers(0, len(handles))),
        requests=draw(columns(handles, f.total_blocks, num_curves)),
        curves=curves,
        curves_version=draw(u64),
        habits=draw(habits),
    )


@st.composite
def successors(draw, old):
    """A later snapshot of the same engine: some requests left, some came, some moved, any order."""
    kept = [int(h) for h in old.requests.handle if draw(st.booleans())]
    added = draw(st.lists(u64.filter(lambda h: h not in set(old.requests.handle.tolist())), unique=True, max_size=4))
    handles = draw(st.permutations(kept + added)) if draw(st.booleans()) else kept + added
    requests = draw(columns(handles, old.facts.total_blocks, len(old.curves)))
    row = {int(h): n for n, h in enumerate(old.requests.handle)}
    stay = [n for n, h in enumerate(handles) if h in row and draw(st.booleans())]
    for f in fields(Requests):  # those that stay keep all but, perhaps, their progress
        if f.name not in ("generated_tokens", "blocks_held"):
            for n in stay:
                getattr(requests, f.name)[n] = getattr(old.requests, f.name)[row[handles[n]]]
    new_curves = draw(st.booleans())
    return replace(
        old,
        revision=old.revision + draw(st.integers(1, 3)),
        now_s=draw(reals),
        free_blocks=draw(st.integers(0, old.facts.total_blocks)),
        num_running=draw(st.integers(0, len(handles))),
        requests=requests,
        curves=0.5 * old.curves if new_curves else old.curves,
        curves_version=(old.curves_version + 1) % 2**64 if new_curves else old.curves_version,
        habits=draw(habits) if draw(st.booleans()) else old.habits,
    )


@st.composite
def plans(draw):
    a, e, k = (draw(st.integers(0, 5)) for _ in range(3))
    anything = st.floats(allow_nan=False)
    return Plan(
        engine_epoch=draw(u64),
        based_on_revision=draw(u64),
        source=draw(st.sampled_from(Source)),
        admissions=draw(column(a, np.uint64, u64)),
        admit_at_steps=draw(column(a, np.float64, anything)),
        evictions=draw(column(e, np.uint64, u64)),
        bucket_steps=draw(column(k, np.float64, anything)),
        block_prices=draw(column(k, np.float64, anything)),
        objective=draw(st.floats()),
        bound=draw(st.floats()),
        work_units=draw(st.integers(0, 2**63)),
        solve_s=draw(st.floats(allow_nan=False)),
    )


def differences(one, other):
    """Names of the fields in which two dataclasses differ, in value, dtype or shape."""
    found = []
    for f in fields(one):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if isinstance(a, np.ndarray):
            same = a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
        elif isinstance(a, Requests):
            same = not differences(a, b)
        else:
            same = type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))
        if not same:
            found.append(f.name)
    return found
