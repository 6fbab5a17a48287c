"""Whether batches keep within what is promised of them, and the reserve's z that follows (`models.forecast.overflow`).

A batch is the requests that run at one moment. Its peak is what they would hold at most within `HORIZON_STEPS` tokens
of each, had none been evicted and none admitted: it is known once each has ended or got so far, however long it waited
in between. Time is counted in tokens of each, so that tokens per step do not matter; prefixes that requests share are
counted for each of them in promise and peak alike. At most `PENDING` batches are watched at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.forecasting.health import EndedLike, ForecastHealth, mean_with
from kvhorizon.adapter.forecasting.running import Running
from kvhorizon.models.forecast.growth import Growth, block_profile, sample_steps, survival_profile
from kvhorizon.models.forecast.overflow import PeakScores, peak_at, score_of
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.state import FloatArray, IntArray

HORIZON_STEPS = 256
STEPS = np.concatenate([[0.0], sample_steps(HORIZON_STEPS, 24)])  # (K,)
PENDING = 8
GAP_LOOKS = 4  # between the beginnings of two batches
PATIENCE_LOOKS = 600  # then whoever is still about counts as running throughout
LEAST_REQUESTS = 4
Z_MOST = 6.0


class _Batch(NamedTuple):
    handles: NDArray[np.uint64]  # (n,)
    generated: IntArray  # (n,) when it began
    held: IntArray  # (n,) tokens then
    runs: IntArray  # (n,) tokens that each went on for; -1: not known yet
    mean: FloatArray  # (K,) blocks
    deviation: FloatArray  # (K,)
    promised: float  # peak [blocks]
    chance: float  # of exceeding it
    begun: int


class PeakWatch:
    """Told of all that ends and, now and then, of all that runs."""

    def __init__(
        self, health: ForecastHealth, reserve_z: float, block_size: int, most_tokens: float = math.inf
    ) -> None:
        self._health, self._block_size = health, block_size
        self._most_tokens = most_tokens  # whose KV one request holds
        self._chance = 1.0 - NormalDist().cdf(reserve_z)
        self._scores = PeakScores()
        self._batches: list[_Batch] = []
        self._looks = 0

    def z(self) -> float:
        """Deviations to keep in reserve, so that peaks exceed it as seldom as the rules mean."""
        return min(max(self._scores.z(self._chance), 0.0), Z_MOST)

    def ended(self, ended: Sequence[EndedLike]) -> None:
        """Requests that are over; one that was aborted runs no longer either."""
        tokens = {one.handle: one.tokens for one in ended}
        for batch in self._batches if tokens else ():
            for place in np.flatnonzero(batch.runs < 0).tolist():
                end = tokens.get(int(batch.handles[place]))
                if end is not None:
                    batch.runs[place] = min(end - int(batch.generated[place]), HORIZON_STEPS)

    def look(self, running: Running, curves: Curves) -> None:
        """What runs now: those watched get on, and a new batch begins when it is time."""
        self._looks += 1
        order = np.argsort(running.handles)
        handles = running.handles[order]
        for batch in self._batches:
            self._advance(batch, handles, running.generated[order])
        due = [batch for batch in self._batches if (batch.runs >= 0).all()]
        self._batches = [batch for batch in self._batches if (batch.runs < 0).any()]
        for batch in due:
            self._settle(batch)
        if len(handles) >= LEAST_REQUESTS and self._looks % GAP_LOOKS == 0 and len(self._batches) < PENDING:
            self._batches.append(self._begin(running, curves))

    def _advance(self, batch: _Batch, handles: NDArray[np.uint64], generated: IntArray) -> None:
        at = np.searchsorted(handles, batch.handles)
        at[at == len(handles)] = 0
        here = handles[at] == batch.handles if len(handles) else np.zeros(len(at), np.bool_)
        far = here & (generated[at] - batch.generated >= HORIZON_STEPS) if len(handles) else here
        patient = self._looks - batch.begun <= PATIENCE_LOOKS
        batch.runs[(batch.runs < 0) & (far if patient else True)] = HORIZON_STEPS

    def _begin(self, running: Running, curves: Curves) -> _Batch:
        size = len(running.handles)
        alive, mean, variance = np.zeros((3, size, len(STEPS)))
        shared = np.zeros(size)
        survival_profile(curves, np.arange(size), running.generated, running.limits, STEPS, 1.0, alive)
        growth = Growth(STEPS, 1.0, self._block_size, self._most_tokens)
        block_profile(alive, running.held, shared, growth, mean, variance)
        total, deviation = mean.sum(axis=0), np.sqrt(variance.sum(axis=0))
        return _Batch(
            running.handles,
            running.generated,
            running.held,
            np.full(size, -1, np.int64),
            total,
            deviation,
            peak_at(total, deviation, self.z()),
            self._chance,
            self._looks,
        )

    def _settle(self, batch: _Batch) -> None:
        tokens = np.minimum(batch.held[:, None] + STEPS, self._most_tokens)
        blocks = np.ceil(tokens / self._block_size)  # (n, K)
        runs = batch.runs[:, None] > STEPS
        runs |= (batch.runs[:, None] == HORIZON_STEPS) & (STEPS == HORIZON_STEPS)
        peak = float((blocks * runs).sum(axis=0).max())
        self._scores.learn(score_of(batch.mean, batch.deviation, peak))
        health = self._health
        health.batches += 1
        health.overflow_promised = mean_with(health.overflow_promised, batch.chance, health.batches)
        health.overflow_seen = mean_with(health.overflow_seen, float(peak > batch.promised + 1e-6), health.batches)
