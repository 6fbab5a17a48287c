"""How good the live forecasts are: what was promised of a request when it came, against what it did.

On arrival the forecast's quantiles are kept, on finish they are scored; nothing learned in between helps. All means are
of the last thousand requests, or batches, the newer weighing more. A request cut at its limit reaches the limit's own
probability: its place in the forecast is drawn from there to 1 (randomised PIT, see `models.forecast.scoring`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.scoring import TAUS, quantile
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.state import FloatArray, IntArray

MEMORY = 1000.0
LEVELS = np.concatenate([[0.025], TAUS, [0.975]])  # (Q,) of the quantiles kept
_MOST_PROMISES = 100_000


@dataclass(slots=True)
class ForecastHealth:
    """Counters and means, written by the learning thread, read by whoever exports them."""

    finished: int = 0  # requests scored
    pinball: float = 0.0  # mean loss [tokens]
    coverage50: float = 0.5  # share inside the central band
    coverage80: float = 0.8
    coverage95: float = 0.95
    overflow_promised: float = 0.0  # mean probability that a batch's peak exceeds what was kept for it
    overflow_seen: float = 0.0  # share of batches whose peak did
    batches: int = 0  # watched to their end
    drift_active: bool = False  # the forecast rests on little, since lengths have changed just now
    hint_sources: int = 0  # whose hints are used
    bad_hints: int = 0  # ignored


class EndedLike(Protocol):
    """`adapter.forecasting.finished.Ended`."""

    @property
    def handle(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def cut(self) -> bool: ...
    @property
    def aborted(self) -> bool: ...


def mean_with(mean: float, value: float, count: int) -> float:
    """The running mean of `count` values, the newest among them, which forgets after `MEMORY`."""
    return mean + (value - mean) * max(1.0 / count, 1.0 / MEMORY)


class Promises:
    """The quantiles of requests that are not over."""

    def __init__(self, health: ForecastHealth, seed: int = 0) -> None:
        self._health = health
        self._quantiles: dict[int, FloatArray] = {}  # by handle, (Q,) [tokens]
        self._rng = np.random.default_rng(seed)

    def make(self, handles: Sequence[int], curves: Curves, limits: IntArray) -> None:
        """Keep the forecasts of n requests with (n,) output limits [tokens]."""
        found = np.zeros((len(handles), len(LEVELS)))
        write_quantiles(curves.survival, curves.curve, curves.scale, limits, LEVELS, found)
        self._quantiles.update(zip(handles, found, strict=True))
        while len(self._quantiles) > _MOST_PROMISES:  # requests that ended unnoticed
            self._quantiles.pop(next(iter(self._quantiles)))

    def settle(self, ended: Sequence[EndedLike]) -> None:
        """Score the forecasts of requests that are over; aborted ones have no length of their own."""
        for one in ended:
            promised = self._quantiles.pop(one.handle, None)
            if promised is not None and not one.aborted:
                self._score(promised, one.tokens, one.cut)

    def _score(self, promised: FloatArray, tokens: int, cut: bool) -> None:
        health = self._health
        health.finished += 1
        error = tokens - promised[1:-1]
        loss = float(np.maximum(TAUS * error, (TAUS - 1.0) * error).mean())
        health.pinball = mean_with(health.pinball, loss, health.finished)
        low = np.interp(tokens - 1, promised, LEVELS, left=0.0, right=1.0)
        high = 1.0 if cut else np.interp(tokens, promised, LEVELS, left=0.0, right=1.0)
        off = abs(float(self._rng.uniform(low, max(low, high))) - 0.5)
        health.coverage50 = mean_with(health.coverage50, float(off <= 0.25), health.finished)
        health.coverage80 = mean_with(health.coverage80, float(off <= 0.4), health.finished)
        health.coverage95 = mean_with(health.coverage95, float(off <= 0.475), health.finished)


@counting
def write_quantiles(survival, rows, scales, limits, levels, out):  # type: ignore[no-untyped-def]
    """Write the quantiles (n, Q) at `levels` (Q,) of n requests, each within its limit."""
    for i in range(len(rows)):
        for q in range(len(levels)):
            out[i, q] = min(quantile(survival[rows[i]], scales[i], levels[q]), float(limits[i]))
