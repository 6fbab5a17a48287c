"""Requests whose KV is on its way: they hold blocks already, run soon, and grow like those that run."""

from __future__ import annotations

import numpy as np

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.step_demand import Demand
from kvhorizon.adapter.engine.view import Engine


def with_coming(demand: Demand, rows: Rows, engine: Engine) -> Demand:
    """The demand of the running, with these among its slots, and the blocks that they lack among those owed."""
    waiting = rows.waiting()
    held = np.array([engine.holds(rows.request[slot]) for slot in waiting.tolist()], dtype=np.int64)
    coming, held = waiting[held > 0], held[held > 0]
    known = rows.columns.prompt[coming] + rows.columns.generated[coming]
    lacking = np.maximum(engine.blocks_of(known) - held, 0)
    slots = np.concatenate([demand.slots, coming])
    return demand._replace(slots=slots, owed_blocks=demand.owed_blocks + int(lacking.sum()))
