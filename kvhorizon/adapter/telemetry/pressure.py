"""What the running requests are expected to hold later, against the pool: the pressure to come."""

from __future__ import annotations

import numpy as np

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.models.forecast.growth import Growth, block_profile, survival_profile
from kvhorizon.state import FloatArray

SHOWN_STEPS = (64, 256, 1024)
_STEPS: FloatArray = np.array(SHOWN_STEPS, np.float64)


def promised_blocks(engine: Engine, rows: Rows) -> dict[int, float]:
    """Blocks that the requests running now are expected to hold, by steps from now; shared prefixes count once.

    It runs beside the step, so what it reads may be a step apart.
    """
    running = [(rows.slot_of.get(request.request_id), request) for request in list(engine.scheduler.running)]
    known = [(slot, request) for slot, request in running if slot is not None]
    slots = np.array([slot for slot, _ in known], np.int32)
    generated = np.array([request.num_output_tokens for _, request in known], np.int32)
    held = np.array([max(request.num_tokens, request.num_computed_tokens) for _, request in known], np.float64)
    alive, mean, variance = np.zeros((3, len(slots), len(_STEPS)))
    limit = rows.columns.limit[slots]
    gained, longest = rows.tables.tokens_per_step, float(engine.window_tokens or engine.max_model_len)
    survival_profile(rows.curves, slots, generated, limit, _STEPS, gained, alive)
    shared = counted_twice(engine, np.array([request.num_computed_tokens for _, request in known], np.float64), longest)
    block_profile(alive, held, shared, Growth(_STEPS, gained, engine.block_size, longest), mean, variance)
    return dict(zip(SHOWN_STEPS, mean.sum(axis=0).tolist(), strict=True))


def counted_twice(engine: Engine, computed: FloatArray, longest: float) -> FloatArray:
    """(n,) Blocks by which the requests' own counts exceed what is in use, to each as much as it holds."""
    blocks: FloatArray = np.ceil(np.minimum(computed, longest) / engine.block_size)
    total = max(float(blocks.sum()), 1.0)
    excess = max(total - (engine.total_blocks - engine.free_blocks), 0.0)
    return excess / total * blocks
