"""How much KV memory requests would hold if each began when it came: what they demand, whatever the engine has.

A request of p prompt and o output tokens that comes at a holds p + (t - a)/s tokens at a <= t < a + o·s, where s is the
engine's step time [s]. Summed over those under way at t, that is Σ (p - a/s) + count · t/s.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.sim.workload.trace import Trace

FloatArray = NDArray[np.float64]


def kv_demand(trace: Trace, step_s: float, moments: int) -> tuple[FloatArray, FloatArray]:
    """(times [s], tokens held), (moments,) each, from the first arrival to the last request's end."""
    ends_s = trace.arrival_s + trace.output_tokens * step_s
    begins = trace.prompt_tokens - trace.arrival_s / step_s
    times = np.linspace(0.0, float(ends_s.max()), moments)
    order = np.argsort(ends_s, kind="stable")
    came = np.searchsorted(trace.arrival_s, times, side="right")
    ended = np.searchsorted(ends_s[order], times, side="right")
    held = _before(begins, came) - _before(begins[order], ended) + (came - ended) * times / step_s
    return times, np.maximum(held, 0.0)


def _before(values: FloatArray, count: NDArray[np.int64]) -> FloatArray:
    """Sums of the first so many values."""
    total: FloatArray = np.concatenate([[0.0], np.cumsum(values)])[count]
    return total
