"""How the KV of requests grows: expected blocks and their variance, per request and bucket of a horizon.

A request that holds c tokens and still runs t steps from now holds b(t) = ⌈(c + γ t) / block⌉ blocks, where it grows by
γ tokens per step (1, more with speculative decoding, less where the pipeline idles). With S its survival,

    mean(t) = S(γ t) · b(t),      variance(t) = S(γ t) (1 − S(γ t)) · b(t)²

`shared` blocks, which others hold as well, are counted once elsewhere and taken off here. Layers with a sliding window
stop growing: `most_tokens` caps c + γ t where all layers have one. Prefills in flight: c is what the request will hold
once its prompt is computed, so blocks that it is owed are counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import compiled
from kvhorizon.models.forecast.survival import EXACT, conditional, survive, table_at

FloatArray = NDArray[np.float64]


def sample_steps(horizon_steps: int, count: int = 32) -> FloatArray:
    """(count,) geometric steps from 1 to the horizon; repeated where the horizon is short."""
    return np.maximum(1.0, np.rint(np.geomspace(1.0, max(horizon_steps, 1), count)))


@compiled
def survival_profile(curves, rows, generated, limit, steps, tokens_per_step, out):  # type: ignore[no-untyped-def]
    """Write S(γ t) to `out` (n, K) of the requests `rows` (n,), with (n,) tokens generated and output limits."""
    for i in range(len(rows)):
        curve, scale = curves.curve[rows[i]], curves.scale[rows[i]]
        now = 0.0 if curve == EXACT else table_at(curves.survival[curve], generated[i] / scale)
        for k in range(len(steps)):
            tokens = tokens_per_step * steps[k]
            if now <= 1e-9:  # a point, or a request that outlived its curve
                out[i, k] = survive(curves, rows[i], generated[i], tokens, limit[i])
            elif generated[i] + tokens >= limit[i]:
                out[i, k] = 0.0
            else:
                out[i, k] = conditional(table_at(curves.survival[curve], (generated[i] + tokens) / scale), now)


class Growth(NamedTuple):
    """How requests that run grow, looked at after so many steps (K,)."""

    steps: FloatArray
    tokens_per_step: float
    block_size: float
    most_tokens: float  # that one keeps, as with a sliding window


@compiled
def block_profile(alive, held, shared, growth, mean, variance):  # type: ignore[no-untyped-def]
    """Write expected blocks and variance, (n, K) each, from survival (n, K), tokens `held` and blocks `shared` (n,)."""
    for i in range(alive.shape[0]):
        for k in range(alive.shape[1]):
            tokens = min(held[i] + growth.tokens_per_step * growth.steps[k], growth.most_tokens)
            blocks = max(0.0, np.ceil(tokens / growth.block_size) - shared[i])
            mean[i, k] = alive[i, k] * blocks
            variance[i, k] = alive[i, k] * (1.0 - alive[i, k]) * blocks * blocks
