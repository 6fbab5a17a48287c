"""Noticing that lengths no longer follow their forecast, within seconds and without waiting for the long ones.

A request with cumulative hazard Λ(g) = −ln S(g) collects E = Λ(g) by the time it has generated g tokens; if S is right,
the number of ends O minus the sum of E over all requests, ended and running, is a martingale with variance E
(Fleming & Harrington, "Counting Processes and Survival Analysis", 1991, ch. 1; over one sample it is the log-rank test
of Breslow 1975). Λ is cut into bands (the first quarter of forecast lengths, the second, …), each a martingale of its
own, so that a change of shape shows even where the mean stays. In each band b and over windows of one, two, four …
looks,

    z_b = (ΔO_b − ΔE_b) / √(ΔE_b (1 + ΔE_b / n))

n requests behind the forecast, whose own error the second factor allows for. Longer requests show as E without O while
they still run. |z| >= `ALARM` in any window is drift; windows overlap, so the threshold is far beyond chance for one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.scoring import survival_at

BANDS = np.array([0.0, np.log(4 / 3), np.log(2.0), np.log(4.0), 6.0])  # of Λ; beyond the last it is not counted
ALARM = 7.0
LOOKS = 64  # looks kept; the longest window
LEAST_EXPECTED = 4.0  # events in a band before it is tested
QUIET_REQUESTS = 200  # finished requests before the first alarm, and between two

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@counting
def collect(survival, rows, scale, generated, ended, observed, expected):  # type: ignore[no-untyped-def]
    """Add to `observed` and `expected` (bands,) the ends and E of n requests with (n,) rows of `survival` (C, G).

    `ended` tells whether they ended after `generated` (n,) tokens, or still run.
    """
    for i in range(len(rows)):
        tokens = generated[i] - 0.5 if ended else generated[i]
        hazard = -math.log(max(survival_at(survival[rows[i]], tokens / scale), 1e-6))
        for b in range(len(expected)):
            inside = min(hazard, BANDS[b + 1]) - BANDS[b]
            if inside <= 0.0:
                break
            expected[b] += inside
            if ended and (hazard <= BANDS[b + 1] or b == len(expected) - 1):
                observed[b] += 1.0
                break


@counting
def largest_z(looks, looked, evidence):  # type: ignore[no-untyped-def]
    """z of the largest |z| over bands and windows; `looks` (LOOKS, 2, bands) is a ring of O and E, `looked` of them."""
    last, largest, back = (looked - 1) % LOOKS, 0.0, 1
    while back < min(looked, LOOKS):
        then = (looked - 1 - back) % LOOKS
        for b in range(looks.shape[2]):
            seen = looks[last, 0, b] - looks[then, 0, b]
            due = max(looks[last, 1, b] - looks[then, 1, b], 1.0)
            z = (seen - due) / math.sqrt(due * (1.0 + due / max(evidence, 1.0)))
            if max(seen, due) >= LEAST_EXPECTED and abs(z) > abs(largest):
                largest = z
        back *= 2
    return largest


class DriftDetector:
    """Sums of O and E, and the windows over them."""

    def __init__(self) -> None:
        bands = len(BANDS) - 1
        self._observed, self._expected = np.zeros(bands), np.zeros(bands)
        # Rows and tokens of those that ran at the last look.
        self._running: tuple[NDArray[np.int32], IntArray] | None = None
        self._looks = np.zeros((LOOKS, 2, bands))  # O and E at the last looks, a ring
        self._looked = 0
        self.finished = 0  # requests since the last alarm
        self.z = 0.0  # of the largest |z| at the last look; below 0: requests are longer than forecast

    def ended(self, survival: FloatArray, rows: NDArray[np.int32], scale: float, lengths: IntArray) -> None:
        """Take in n requests that ended, with the rows (n,) they were forecast with."""
        collect(survival, rows, scale, lengths, True, self._observed, self._expected)
        self.finished += len(lengths)

    def running(self, survival: FloatArray, rows: NDArray[np.int32], scale: float, generated: IntArray) -> None:
        """Take in all n requests that run now; what they had collected by the last time is taken off again, by the
        same curves, so that a change of the curves is none of E."""
        off = np.zeros(len(self._expected))
        if self._running is not None:
            known_rows, known_tokens = self._running
            collect(survival, known_rows, scale, known_tokens, False, self._observed, off)
        collect(survival, rows, scale, generated, False, self._observed, self._expected)
        self._expected -= off
        self._running = (rows, generated)

    def look(self, evidence: float) -> bool:
        """Whether lengths have drifted from a forecast with so many requests of `evidence`; begins anew if so."""
        self._looks[self._looked % LOOKS] = self._observed, self._expected
        self._looked += 1
        self.z = largest_z(self._looks, self._looked, evidence)
        if abs(self.z) < ALARM or self.finished < QUIET_REQUESTS:
            return False
        self._looked = 0
        self.finished = 0
        return True
