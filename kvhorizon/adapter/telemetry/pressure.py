"""What the running requests are expected to hold later, against the pool: the pressure to come."""

from __future__ import annotations

import numpy as np

from kvhorizon.adapter.engine import Engine
from kvhorizon.adapter.rows import Rows
from kvhorizon.models.growth import block_profile, survival_profile
from kvhorizon.state import FloatArray

SHOWN_STEPS = (64, 256, 1024)
_STEPS: FloatArray = np.array(SHOWN_STEPS, np.float64)


def promised_blocks(engine: Engine, rows: Rows) -> dict[int, float]:
    """Blocks that the requests running now are expected to hold, by steps from now.

    It runs beside the step, so what it reads may be a step apart.
    """
    running = [(rows.slot_of.get(request.request_id), request) for request in list(engine.scheduler.running)]
    known = [(slot, request) for slot, request in running if slot is not None]
    slots = np.array([slot for slot, _ in known], np.int32)
    generated = np.array([request.num_output_tokens for _, request in known], np.int32)
    held = np.array([max(request.num_tokens, request.num_computed_tokens) for _, request in known], np.float64)
    alive, mean, variance = np.zeros((3, len(slots), len(_STEPS)))
    limit = rows.columns.limit[slots]
    survival_profile(rows.curves, slots, generated, limit, _STEPS, 1.0, alive)
    shared, longest = np.zeros(len(slots)), float(engine.max_model_len)
    block_profile(alive, held, shared, _STEPS, 1.0, engine.block_size, longest, mean, variance)
    return dict(zip(SHOWN_STEPS, mean.sum(axis=0).tolist(), strict=True))
