"""Compile, or load from the cache, what a step calls, before there are steps."""

from __future__ import annotations

import numpy as np

from kvhorizon.adapter.control.plan_follower import named_of, rank_named
from kvhorizon.adapter.control.step_policy import Ages, Rule, decide, score_victims
from kvhorizon.adapter.engine.request_table import Rows, Slots, close_gaps
from kvhorizon.adapter.engine.running_batch import take_out
from kvhorizon.adapter.engine.snapshot import take_moment
from kvhorizon.adapter.engine.step_demand import Demand, Wishes, share
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.kinds.lora import Adapters
from kvhorizon.adapter.prefix_cache.prefill_price import PrefillPrice
from kvhorizon.models.performance.step_time import recompute_seconds
from kvhorizon.solver.heuristic.columns import Room
from kvhorizon.state import Habits


def warm_up(rule: Rule, engine: Engine) -> None:
    """With arguments of the very types that a step has."""
    rows = Rows(2, Forecaster().tables, capacity=4)
    rows.columns.prompt[:] = 8
    rows.columns.limit[:] = 8
    running: Slots = np.zeros(1, np.int32)
    tokens, blocks = np.zeros(1, np.int64), np.zeros(1, np.int64)
    real, whole, marks, *_ = rows.pool
    survival, residual = rows.tables.survival, rows.tables.residual
    sizes = np.array(engine.sizes, dtype=np.int64)
    totals = share(real, whole, marks, rows.extra.pending, running, 0, sizes, Wishes(tokens, blocks))
    rows.scratch.waiting[0] = 1
    room = Room(30, 0, 100, 16, 1, 64, 1.0, 1.0, 70, 0.02, 0.0)
    decide(rows.pool, survival, residual, rule.greedy, running, 1, np.zeros(1, np.int32), room)
    score_victims(rows.pool, survival, residual, rule.greedy, rule.losing, running, Ages(1.0, 0.0), np.zeros(1))
    take_moment(rows, Demand(running, tokens, blocks, *totals), 1, 0, 0.0, 0.02, Habits())
    rank_named(rows.scratch.rank, rows.extra.waits, rows.extra.handle, *named_of(np.zeros(1, np.uint64), rows))
    close_gaps(np.zeros(1, np.int32), 1, rows.extra.place)
    take_out(running, 1, 1)
    if engine.max_loras:
        Adapters(engine, rows).admissible(running, running, 1.0)
    recompute_seconds(rule.losing, 0, 1)
    PrefillPrice(0.0).see(0.02, 0)
