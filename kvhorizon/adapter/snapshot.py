"""The live engine's rows as a `Snapshot`, the form that goes over the wire."""

from __future__ import annotations

import numpy as np
from numba import njit

from kvhorizon.adapter.demand import Demand
from kvhorizon.adapter.pool import columns_in
from kvhorizon.adapter.rows import Rows
from kvhorizon.state import EngineFacts, ForecastKind, Habits, Requests, Snapshot


@njit(cache=True)
def gather(pool_real, pool_whole, marks, handles, slots, first, handle, whole, real, overtaker):  # type: ignore[no-untyped-def]
    """Rows at `slots` (n,) to places `first` … of handles (N,), counts (7, N), times and scales (2, N), marks (N,)."""
    columns = columns_in(pool_real, pool_whole, marks)
    for i in range(len(slots)):
        n, at = slots[i], first + i
        handle[at] = handles[n]
        real[0, at] = columns.arrival_s[n]
        whole[0, at] = columns.prompt[n]
        whole[1, at] = columns.generated[n]
        whole[2, at] = columns.computed[n]
        whole[3, at] = columns.blocks[n]
        whole[4, at] = columns.limit[n]
        whole[5, at] = columns.preemptions[n]
        whole[6, at] = pool_whole[6, n]  # of the tables
        real[1, at] = pool_real[2, n]
        overtaker[at] = columns.overtaker[n]


def take_snapshot(
    rows: Rows,
    demand: Demand,
    facts: EngineFacts,
    revision: int,
    now_s: float,
    step_s: float,
    free_blocks: int,
    habits: Habits,
) -> Snapshot:
    """Running requests in engine order, then the waiting ones in order of becoming waiting; all columns are copies."""
    waiting = rows.waiting()
    size = len(demand.slots) + len(waiting)
    handle, overtaker = np.empty(size, np.uint64), np.empty(size, np.uint8)
    whole, real = np.empty((7, size), np.int64), np.empty((2, size))
    for slots, first in ((demand.slots, 0), (waiting, len(demand.slots))):
        gather(*rows.pool[:3], rows.extra.handle, slots, first, handle, whole, real, overtaker)
    if facts.window_tokens:
        whole[3] = np.minimum(whole[3], -(-facts.window_tokens // facts.block_size))
    requests = Requests(
        handle=handle,
        arrival_s=real[0],
        prompt_tokens=whole[0],
        generated_tokens=whole[1],
        computed_tokens=whole[2],
        blocks_held=whole[3],
        output_limit_tokens=whole[4],
        preemptions=whole[5],
        cached_tokens=np.zeros(size, np.int64),
        weight=np.ones(size),
        overtaker=overtaker,
        forecast_kind=np.full(size, ForecastKind.CURVE, np.uint8),
        forecast_scale=real[1],
        forecast_log_sigma=np.zeros(size),
        forecast_curve=whole[6],
    )
    return Snapshot(
        facts=facts,
        revision=revision,
        now_s=now_s,
        free_blocks=free_blocks,
        step_s=step_s,
        num_running=len(demand.slots),
        requests=requests,
        curves=rows.tables.survival,
        curves_version=rows.tables.version,
        habits=habits,
    )
