"""What the running requests are expected to hold later, and how likely they are to outgrow the pool."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvhorizon.adapter.engine import Engine
from kvhorizon.adapter.rows import Rows
from kvhorizon.models.growth import block_profile, sample_steps, survival_profile
from kvhorizon.state import FloatArray

if TYPE_CHECKING:
    from kvhorizon.adapter.guest import Guest

SHOWN_STEPS = (64, 256, 1024)
WATCHED_STEPS = 256  # of a forecast of overflow
_STEPS: FloatArray = np.unique(np.concatenate([sample_steps(WATCHED_STEPS, 12), np.array(SHOWN_STEPS, np.float64)]))


class Promise(NamedTuple):
    """Of the requests running at one moment."""

    blocks: dict[int, float]  # expected, by steps from now
    overflow: float  # probability that they alone outgrow the pool within WATCHED_STEPS, were their sum normal


def promise(engine: Engine, rows: Rows) -> Promise:
    """From requests as they are now. It runs beside the step, so what it reads may be a step apart."""
    running = [(rows.slot_of.get(request.request_id), request) for request in list(engine.scheduler.running)]
    known = [(slot, request) for slot, request in running if slot is not None]
    slots = np.array([slot for slot, _ in known], np.int32)
    generated = np.array([request.num_output_tokens for _, request in known], np.int32)
    held = np.array([max(request.num_tokens, request.num_computed_tokens) for _, request in known], np.float64)
    mean, deviation = _profile(rows, slots, generated, held, engine)
    shown = {steps: float(mean[int(np.searchsorted(_STEPS, steps))]) for steps in SHOWN_STEPS}
    watched = _STEPS <= WATCHED_STEPS
    tightest = ((engine.total_blocks - mean) / np.maximum(deviation, 1e-9))[watched].min()
    return Promise(shown, 0.5 * math.erfc(float(np.clip(tightest, -20.0, 20.0)) / math.sqrt(2.0)))


def _profile(
    rows: Rows, slots: np.ndarray, generated: np.ndarray, held: FloatArray, engine: Engine
) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation [blocks], (K,) each over `_STEPS`, of requests in `slots` (n,)."""
    shape = (len(slots), len(_STEPS))
    alive, mean, variance = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    limit = rows.columns.limit[slots]
    survival_profile(rows.curves, slots, generated, limit, _STEPS, 1.0, alive)
    shared = np.zeros(len(slots))
    block_profile(alive, held, shared, _STEPS, 1.0, engine.block_size, float(engine.max_model_len), mean, variance)
    return mean.sum(axis=0), np.sqrt(variance.sum(axis=0))


class OverflowWatch:
    """Forecasts of overflow against what came. `promised`, `seen`, `judged` only grow."""

    def __init__(self) -> None:
        self.promised = 0.0
        self.seen = 0
        self.judged = 0
        self._open: deque[tuple[int, float, int]] = deque(maxlen=4096)  # step it ends at, probability, evictions before

    def look(self, guest: Guest, overflow: float) -> None:
        """Judge what is over, and take up one more forecast."""
        step, evictions = guest.control.step, guest.accounting.total.preemptions
        while self._open and self._open[0][0] <= step:
            _, probability, before = self._open.popleft()
            self.judged += 1
            self.promised += probability
            self.seen += evictions > before
        if guest.engine.scheduler.running:
            self._open.append((step + WATCHED_STEPS, overflow, evictions))
