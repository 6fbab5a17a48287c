"""Time ahead in buckets, and what each option is expected to hold in them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvhorizon.models.survival import Curves, survive
from kvhorizon.solver.settings import Settings
from kvhorizon.state import Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def bucket_edges(horizon_steps: float, settings: Settings) -> FloatArray:
    """T_0 … T_K (K + 1,): widths grow geometrically from `first_bucket_steps`, so that T_K is the horizon.

    A horizon too short for that is lengthened to K buckets of the first one's width.
    """
    first, buckets = settings.first_bucket_steps, settings.buckets
    low, high = 1.0, 16.0
    for _ in range(40):  # bisection of the ratio
        ratio = 0.5 * (low + high)
        if first * (ratio ** np.arange(buckets)).sum() < horizon_steps:
            low = ratio
        else:
            high = ratio
    return np.concatenate([[0.0], np.cumsum(first * low ** np.arange(buckets))])


def admission_buckets(settings: Settings) -> IntArray:
    """(A,) Buckets at whose start requests may be admitted: spread evenly, the first and now among them."""
    return np.rint(np.linspace(0, settings.buckets - 1, settings.points)).astype(np.int64)


def expected_holdings(
    snapshot: Snapshot, rows: IntArray, curves: Curves, edges: FloatArray, bucket: IntArray, evict: BoolArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean blocks, their variance and expected sequences of every option, (N, A, K) each.

    A running request that stays holds at least its present blocks in the first bucket; where `evict` (R,) is false
    it has no other option, and those stay 0.
    """
    requests, running = snapshot.requests, snapshot.num_running
    shape = (len(rows), len(bucket), len(edges) - 1)
    mean, variance, sequences = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    points = np.full(len(rows), len(bucket))
    points[:running] = np.where(evict, len(bucket), 1)
    context = requests.prompt_tokens + requests.generated_tokens
    generated, limit = requests.generated_tokens, requests.output_limit_tokens
    block_size = snapshot.facts.block_size
    _hold(rows, points, context, generated, limit, curves, edges, bucket, block_size, mean, variance, sequences)
    mean[:running, 0, 0] = np.maximum(mean[:running, 0, 0], requests.blocks_held[:running])
    return mean, variance, sequences


@njit(cache=True)
def _hold(rows, points, context, generated, limit, curves, edges, bucket, block_size, mean, variance, sequences):  # type: ignore[no-untyped-def]
    """Largest of S·⌈(c + h) / block⌉ and of its variance over start, middle and end of each bucket; S at its start."""
    for i in range(len(rows)):
        n = rows[i]
        for a in range(points[i]):
            start = edges[bucket[a]]
            alive = 1.0
            for k in range(bucket[a], len(edges) - 1):
                sequences[i, a, k] = alive
                for sample in range(3):
                    h = edges[k] + 0.5 * sample * (edges[k + 1] - edges[k]) - start
                    if sample > 0:
                        alive = survive(curves, n, generated[n], h, limit[n])
                    held = math.ceil((context[n] + h) / block_size)
                    mean[i, a, k] = max(mean[i, a, k], alive * held)
                    variance[i, a, k] = max(variance[i, a, k], alive * (1.0 - alive) * held * held)
                if alive <= 0.0:
                    break


def full_pool_variance(mean: FloatArray, variance: FloatArray, running: int, pool: float) -> FloatArray:
    """V0 (K,): variance of the running requests' blocks, and of waiting ones that fill the rest of the pool.

    The constraint binds where the pool is full, so that is where its tangent should touch. `mean` and `variance` (N, K)
    are those of option 0, running requests first.
    """
    room = np.maximum(pool - mean[:running].sum(axis=0), 0.0)  # (K,)
    offered = mean[running:].sum(axis=0)
    per_block = variance[running:].sum(axis=0) / np.maximum(offered, 1e-9)
    filled = variance[:running].sum(axis=0) + np.minimum(room, offered) * per_block
    return np.asarray(np.maximum(filled, 1.0))
