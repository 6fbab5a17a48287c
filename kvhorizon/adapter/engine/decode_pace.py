"""How many tokens a decode gains per step: one, more by speculative decoding, less where the pipeline lets it wait.

Two looks at what runs, s steps apart, give each request that ran through both a rate (tokens gained) / s; γ is their
mean, older looks fading. Rates below half the median are left out: of requests that were evicted in between, or had
to prefill.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.state import FloatArray, IntArray

NEW_SHARE = 0.2  # of a look's rate in γ
LEAST_STEPS = 8  # between two looks
MATERIAL = 0.03  # relative change of γ that is worth telling
LEAST, MOST = 0.01, 64.0


class Pace:
    """Of one engine. `told` is γ as others know it: it moves only where the change is material."""

    def __init__(self) -> None:
        self.told = 1.0
        self._rate: float | None = None
        self._handles: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._generated: IntArray = np.zeros(0, np.int64)
        self._steps = 0

    def look(self, handles: NDArray[np.uint64], generated: IntArray, steps: int) -> None:
        """What runs now: (n,) requests, their tokens so far, and the engine's steps so far."""
        passed = steps - self._steps
        if 0 <= passed < LEAST_STEPS:
            return
        order = np.argsort(handles)
        handles, generated = handles[order], generated[order]
        if passed > 0:
            _, then, now = np.intersect1d(self._handles, handles, assume_unique=True, return_indices=True)
            decoding = self._generated[then] > 0
            self._learn((generated[now] - self._generated[then])[decoding] / passed)
        self._handles, self._generated, self._steps = handles, generated, steps

    def _learn(self, rates: FloatArray) -> None:
        steady = rates[rates >= 0.5 * np.median(rates)] if len(rates) else rates
        if not len(steady) or steady.max() <= 0.0:
            return
        seen = min(max(float(steady.mean()), LEAST), MOST)
        self._rate = seen if self._rate is None else self._rate + NEW_SHARE * (seen - self._rate)
        if abs(self._rate - 1.0) < MATERIAL:
            self.told = 1.0
        elif abs(self._rate / self.told - 1.0) >= MATERIAL:
            self.told = self._rate
