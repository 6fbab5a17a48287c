"""The simulated engine's state as a `Snapshot`, the same form a live engine sends."""

from __future__ import annotations

import numpy as np

from kvhorizon.models.forecast.of_a_trace import Forecast
from kvhorizon.models.forecast.survival import EXACT
from kvhorizon.sim.engine.arrays import FREE, NOW, RUNNING, STEP, Engine
from kvhorizon.sim.policies.view import collect_waiting
from kvhorizon.solver.heuristic.scratch import Scratch
from kvhorizon.state import EngineFacts, ForecastKind, Habits, Requests, Snapshot


def take_snapshot(
    engine: Engine, forecast: Forecast, scratch: Scratch, facts: EngineFacts, revision: int, habits: Habits
) -> Snapshot:
    """Running requests in engine order, then the waiting in queue order; handles are request indices."""
    num_running = int(engine.counters[RUNNING])
    num_waiting, _ = collect_waiting(engine, scratch.waiting)
    rows = np.concatenate([engine.lists.running[:num_running], scratch.waiting[:num_waiting]]).astype(np.int64)
    columns, curves = engine.columns, forecast.curves
    exact = curves.curve[rows] == EXACT
    size = len(rows)
    requests = Requests(
        handle=rows.astype(np.uint64),
        arrival_s=columns.arrival_s[rows],
        prompt_tokens=columns.prompt[rows].astype(np.int64),
        generated_tokens=columns.generated[rows].astype(np.int64),
        computed_tokens=columns.computed[rows].astype(np.int64),
        blocks_held=columns.blocks[rows].astype(np.int64),
        output_limit_tokens=columns.limit[rows].astype(np.int64),
        preemptions=columns.preemptions[rows].astype(np.int64),
        cached_tokens=(columns.shared[rows] + columns.idle[rows]).astype(np.int64),
        shared_tokens=columns.shared[rows].astype(np.int64),
        weight=columns.weight[rows],
        out_of_order=columns.out_of_order[rows],
        forecast_kind=np.where(exact, ForecastKind.POINT, ForecastKind.CURVE).astype(np.uint8),
        forecast_scale=curves.scale[rows],
        forecast_log_sigma=np.zeros(size),
        forecast_curve=np.where(exact, 0, curves.curve[rows]).astype(np.int64),
    )
    return Snapshot(
        facts=facts,
        revision=revision,
        now_s=float(engine.clock[NOW]),
        free_blocks=int(engine.counters[FREE]),
        step_s=float(engine.clock[STEP]),
        num_running=num_running,
        requests=requests,
        curves=curves.survival,
        curves_version=forecast.version,
        habits=habits,
    )
