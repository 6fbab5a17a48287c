"""Time ahead in buckets, and what requests are expected to hold in them.

Expected blocks of a bucket are the largest of S(h)·⌈(c + h) / block⌉ over its start, middle and end, their variance the
largest of S·(1 − S)·⌈…⌉², expected sequences S at its start; h = γ·steps are the tokens gained since admission, c is
the context then, and c + h is cut at the window where every layer has one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import unlocked
from kvhorizon.models.forecast.survival import (
    EXACT,
    GRID_OCTAVES_BELOW_ONE,
    GRID_PER_OCTAVE,
    GRID_POINTS,
    conditional,
    survive,
)
from kvhorizon.solver.program.settings import Settings

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
SAMPLES = 3  # per bucket: start, middle, end
TINY = 1e-6  # chance below which a request has outlived its curve
GONE = 1e-5  # chance of still being there below which nothing is held
ROUNDING = 1e-9  # blocks: a full one is not exceeded by rounding


class Grid(NamedTuple):
    """How time is cut, as compiled code takes it."""

    edges: FloatArray  # (K + 1,) T_k, steps
    bucket: IntArray  # (A,) k_a, ascending from 0
    tokens: FloatArray  # (A, K, SAMPLES) gained from admission at a to each sample of bucket k; 0 for k < k_a
    log_tokens: FloatArray  # (A, K, SAMPLES) log2 of them
    window: float  # tokens whose KV a request holds at most


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


def grid_of(edges: FloatArray, bucket: IntArray, tokens_per_step: float = 1.0, window_tokens: int = 0) -> Grid:
    """The grid with these edges (K + 1,) and admission buckets (A,); without a window, `window_tokens` = 0."""
    share = np.linspace(0.0, 1.0, SAMPLES)
    samples = edges[:-1, None] + share * np.diff(edges)[:, None]  # (K, SAMPLES)
    tokens = tokens_per_step * np.maximum(samples[None] - edges[bucket][:, None, None], 0.0)
    return Grid(edges, bucket, tokens, np.log2(np.maximum(tokens, 1e-9)), float(window_tokens or np.inf))


class Traits(NamedTuple):
    """What the expectation of a request depends on, (N,) each."""

    context: IntArray  # tokens
    generated: IntArray
    limit: IntArray


@unlocked
def table_at_log(tables, c, log_x):  # type: ignore[no-untyped-def]
    """Row c of `tables` (C, G), see `models.forecast.survival`, at x = 2^log_x."""
    position = (log_x + GRID_OCTAVES_BELOW_ONE) * GRID_PER_OCTAVE
    if position <= 0.0:
        return tables[c, 0]
    if position >= GRID_POINTS - 1:
        return tables[c, GRID_POINTS - 1]
    i = int(position)
    share = position - i
    return tables[c, i] * (1.0 - share) + tables[c, i + 1] * share


class Row(NamedTuple):
    """What one request is expected to hold, (K,) each: mean and variance of its blocks, and of itself."""

    mean: FloatArray
    variance: FloatArray
    sequences: FloatArray


@unlocked
def hold_from(curves, traits, n, grid, a, block_size, row):  # type: ignore[no-untyped-def]
    """Fill the `row` of request n from bucket k_a on, if it is admitted at point a.

    S(h | generated) is that of `models.forecast.survival.survive`, with what does not depend on h computed once.
    """
    tables, tokens, log_tokens = curves.survival, grid.tokens, grid.log_tokens
    mean, variance, sequences = row
    c, scale = curves.curve[n], curves.scale[n]
    context, generated, limit = float(traits.context[n]), float(traits.generated[n]), float(traits.limit[n])
    log_scale = math.log2(scale)
    log_generated = math.log2(max(generated, 1e-9))
    now = 1.0
    if c != EXACT:
        now = tables[c, 0] if generated == 0.0 else table_at_log(tables, c, log_generated - log_scale)
    tabled = c != EXACT and now > TINY
    per_block = 1.0 / block_size
    alive, held = 1.0, math.ceil(min(context, grid.window) * per_block - ROUNDING)
    for k in range(grid.bucket[a], len(mean)):
        sequences[k] = alive
        most, widest = alive * held, alive * (1.0 - alive) * held * held
        for sample in range(1, SAMPLES):
            h = tokens[a, k, sample]
            if generated + h >= limit:
                alive = 0.0
            elif tabled:
                log_x = log_tokens[a, k, sample] if generated == 0.0 else math.log2(generated + h)
                alive = conditional(table_at_log(tables, c, log_x - log_scale), now)
            else:
                alive = survive(curves, n, generated, h, limit)
            held = math.ceil(min(context + h, grid.window) * per_block - ROUNDING)
            most = max(most, alive * held)
            widest = max(widest, alive * (1.0 - alive) * held * held)
        mean[k], variance[k] = most, widest
        if alive <= GONE:
            for later in range(k + 1, len(mean)):
                mean[later], variance[later], sequences[later] = 0.0, 0.0, 0.0
            break


@unlocked
def hold_now(curves, traits, rows, grid, block_size, mean, variance, sequences):  # type: ignore[no-untyped-def]
    """Fill (R, K) each with what the requests `rows` (R,) hold if they run from now on."""
    for i in range(len(rows)):
        hold_from(curves, traits, rows[i], grid, 0, block_size, Row(mean[i], variance[i], sequences[i]))


def full_pool_variance(
    running: tuple[FloatArray, FloatArray], offered: tuple[FloatArray, FloatArray], pool: float
) -> FloatArray:
    """V0 (K,): variance of the running requests' blocks, and of waiting ones that fill the rest of the pool.

    The constraint binds where the pool is full, so that is where its tangent should touch. Both pairs are mean and
    variance (K,), summed over requests that run from now on.
    """
    (held, variance), (offered_blocks, offered_variance) = running, offered
    room = np.maximum(pool - held, 0.0)  # (K,)
    per_block = offered_variance / np.maximum(offered_blocks, 1e-9)
    filled = variance + np.minimum(room, offered_blocks) * per_block
    return np.asarray(np.maximum(filled, 1.0))
