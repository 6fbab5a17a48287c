"""The live engine's rows as a `Snapshot`, the form that goes over the wire."""

from __future__ import annotations

import numpy as np

from kvhorizon.adapter.batch import Demand
from kvhorizon.adapter.rows import Rows
from kvhorizon.state import EngineFacts, ForecastKind, Requests, Snapshot


def take_snapshot(
    rows: Rows, demand: Demand, facts: EngineFacts, revision: int, now_s: float, step_s: float, free_blocks: int
) -> Snapshot:
    """Running requests in engine order, then the waiting ones in order of becoming waiting; all columns are copies."""
    at = np.concatenate([demand.slots, rows.waiting()])
    columns, extra, size = rows.columns, rows.extra, len(at)
    whole = [
        column[at].astype(np.int64)
        for column in columns[1:7]  # prompt … preemptions
    ]
    requests = Requests(
        handle=extra.handle[at],
        arrival_s=columns.arrival_s[at],
        prompt_tokens=whole[0],
        generated_tokens=whole[1],
        computed_tokens=whole[2],
        blocks_held=whole[3],
        output_limit_tokens=whole[4],
        preemptions=whole[5],
        cached_tokens=np.zeros(size, np.int64),
        weight=np.ones(size),
        overtaker=columns.overtaker[at],
        forecast_kind=np.full(size, ForecastKind.CURVE, np.uint8),
        forecast_scale=extra.scale[at],
        forecast_log_sigma=np.zeros(size),
        forecast_curve=extra.curve[at].astype(np.int64),
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
    )
