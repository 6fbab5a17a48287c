"""The live engine's rows as a `Snapshot`, the form that goes over the wire: copied in a step, made beside it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.column_store import columns_in
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.step_demand import Demand
from kvhorizon.adapter.forecasting.forecaster import Tables
from kvhorizon.compiled.compiler import compiled
from kvhorizon.state import EngineFacts, ForecastKind, Habits, Requests, Snapshot

COUNTS = 10  # prompt, generated, computed, blocks, limit, preemptions, curve, request out of order, shared, cached


class Moment(NamedTuple):
    """Copies of N rows: running requests in engine order, then the waiting ones in order of becoming waiting."""

    handles: NDArray[np.uint64]  # (N,)
    counts: NDArray[np.int32]  # (COUNTS, N)
    reals: NDArray[np.float64]  # (3, N) arrival_s, scale of the curve, weight
    num_running: int
    free_blocks: int
    revision: int
    now_s: float
    step_s: float
    tables: Tables
    habits: Habits


class Copies(NamedTuple):
    """The arrays of a `Moment`."""

    handles: NDArray[np.uint64]
    counts: NDArray[np.int32]
    reals: NDArray[np.float64]


@compiled
def gather(pool_real, pool_whole, marks, all_handles, running, waiting, copies):  # type: ignore[no-untyped-def]
    """Rows at the slots `running` (R,), then `waiting` (W,), to a moment's `Copies` of R + W."""
    columns = columns_in(pool_real, pool_whole, marks)
    handles, counts, reals = copies
    for i in range(len(running) + len(waiting)):
        n = running[i] if i < len(running) else waiting[i - len(running)]
        handles[i] = all_handles[n]
        counts[0, i] = columns.prompt[n]
        counts[1, i] = columns.generated[n]
        counts[2, i] = columns.computed[n]
        counts[3, i] = columns.blocks[n]
        counts[4, i] = columns.limit[n]
        counts[5, i] = columns.preemptions[n]
        counts[6, i] = pool_whole[6, n]  # of the tables
        counts[7, i] = columns.out_of_order[n]
        counts[8, i] = columns.shared[n]
        counts[9, i] = columns.shared[n] + columns.idle[n]
        reals[0, i] = columns.arrival_s[n]
        reals[1, i] = pool_real[2, n]
        reals[2, i] = columns.weight[n]


def take_moment(
    rows: Rows, demand: Demand, free_blocks: int, revision: int, now_s: float, step_s: float, habits: Habits
) -> Moment:
    """The step's side."""
    waiting, running = rows.waiting(), len(demand.slots)
    size = running + len(waiting)
    copies = Copies(np.empty(size, np.uint64), np.empty((COUNTS, size), np.int32), np.empty((3, size)))
    real, whole, marks, *_ = rows.pool
    gather(real, whole, marks, rows.extra.handle, demand.slots, waiting, copies)
    return Moment(*copies, running, free_blocks, revision, now_s, step_s, rows.tables, habits)


def snapshot_of(moment: Moment, facts: EngineFacts) -> Snapshot:
    """The other side."""
    size, counts = len(moment.handles), moment.counts.astype(np.int64)
    if facts.window_tokens:
        counts[3] = np.minimum(counts[3], -(-facts.window_tokens // facts.block_size))
    requests = Requests(
        handle=moment.handles,
        arrival_s=moment.reals[0],
        prompt_tokens=counts[0],
        generated_tokens=counts[1],
        computed_tokens=counts[2],
        blocks_held=counts[3],
        output_limit_tokens=counts[4],
        preemptions=counts[5],
        cached_tokens=counts[9],
        shared_tokens=counts[8],
        weight=moment.reals[2],
        out_of_order=counts[7].astype(np.uint8),
        forecast_kind=np.full(size, ForecastKind.CURVE, np.uint8),
        forecast_scale=moment.reals[1],
        forecast_log_sigma=np.zeros(size),
        forecast_curve=counts[6],
    )
    return Snapshot(
        facts=facts,
        revision=moment.revision,
        now_s=moment.now_s,
        free_blocks=moment.free_blocks,
        step_s=moment.step_s,
        num_running=moment.num_running,
        requests=requests,
        curves=moment.tables.survival,
        curves_version=moment.tables.version,
        habits=moment.habits,
    )
