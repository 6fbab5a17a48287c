"""Bins of output length, and how a survival curve over them becomes a table of `models.forecast.survival`.

Bin b holds the whole lengths in (e_{b−1}, e_b], e_{−1} = 0. The edges are the distinct floor(2^(i/16)): each length up
to 23 tokens has its own bin, longer ones share bins 4.4 % wide, so that 270 bins reach a million tokens.
Between two edges a curve is linear, which spreads a bin's mass evenly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.survival import GRID_POINTS, grid

UNIT_TOKENS = 16.0  # scale of the tables: their grid then ends at a million tokens
PER_OCTAVE, OCTAVES = 16, 20

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def _edges() -> FloatArray:
    return np.unique(np.floor(2.0 ** (np.arange(OCTAVES * PER_OCTAVE + 1) / PER_OCTAVE)))


EDGES = _edges()  # (B,) last length of each bin [tokens]
BINS = len(EDGES)


def _map() -> tuple[IntArray, FloatArray]:
    """Of each grid point (G,): the bin it lies in, and how far along."""
    tokens = np.minimum(grid() * UNIT_TOKENS, EDGES[-1])
    inside = np.searchsorted(EDGES, tokens, side="left")
    begin = np.where(inside > 0, EDGES[np.maximum(inside - 1, 0)], 0.0)
    return inside.astype(np.int64), (tokens - begin) / (EDGES[inside] - begin)


GRID_BIN, GRID_SHARE = _map()
_GRID_GAPS = np.diff(grid())


def bin_of(lengths: NDArray[np.int64]) -> IntArray:
    """Bin of each of (n,) lengths >= 1 [tokens]; the last one takes all beyond."""
    return np.minimum(np.searchsorted(EDGES, lengths, side="left"), BINS - 1).astype(np.int64)


@counting
def tabulate(alive, survival, residual):  # type: ignore[no-untyped-def]
    """Write the curve `alive` (B,), P(L > e_b), as `survival` and mean residual life, (G,) each, in units of the scale.

    The residual is `survival.residual_of`'s: the trapezoid rule, and a constant hazard beyond the support.
    """
    for i in range(GRID_POINTS):
        b = GRID_BIN[i]
        before = alive[b - 1] if b > 0 else 1.0
        survival[i] = before + GRID_SHARE[i] * (alive[b] - before)
    tail = 0.0
    residual[GRID_POINTS - 1] = 0.0
    for i in range(GRID_POINTS - 2, -1, -1):
        tail += 0.5 * (survival[i] + survival[i + 1]) * _GRID_GAPS[i]
        residual[i] = tail / survival[i] if survival[i] > 1e-9 else 0.0
    last = 1e-3
    for i in range(GRID_POINTS):
        if survival[i] > 1e-9 and residual[i] > 0.0:
            last = residual[i]
        else:
            residual[i] = last
