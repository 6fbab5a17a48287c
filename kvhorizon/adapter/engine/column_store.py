"""The rows' columns in three arrays, so that a compiled call takes a handful of arguments and unfolds them by itself.

Taking an argument apart costs a call about a microsecond per array; with the cold caches that a step finds, several.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import inside
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.solver.heuristic.columns import Columns
from kvhorizon.solver.heuristic.params import HORIZONS
from kvhorizon.solver.heuristic.scratch import Profile, Result, Scratch

Reals = NDArray[np.float64]
Wholes = NDArray[np.int32]
Marks = NDArray[np.uint8]
REALS, WHOLES = 6, 11


class Pool(NamedTuple):
    """Of N slots, and at most S admissions in a step."""

    real: Reals  # (REALS, N) arrival_s, remaining, scale of the curve, keys, weight, turn
    whole: Wholes  # (WHOLES, N) prompt … preemptions as in `Columns`, curve, waiting, rank, shared, idle
    marks: Marks  # (N,) request out of order
    sums: Reals  # (4, H) mean, variance, survival; the last begins with the ledger
    chosen: Wholes  # (S,)
    overtakes: Marks  # (S,)


def new_pool(size: int, seats: int) -> Pool:
    """All zero, but for scales of one token and weights of 1."""
    real = np.zeros((REALS, size))
    real[2] = real[4] = 1.0
    return Pool(
        real,
        np.zeros((WHOLES, size), np.int32),
        np.zeros(size, np.uint8),
        np.zeros((4, len(HORIZONS))),
        np.zeros(seats, np.int32),
        np.zeros(seats, np.uint8),
    )


def grown(pool: Pool, size: int) -> Pool:
    """The same with room for more."""
    larger, old = new_pool(size, len(pool.chosen)), pool.real.shape[1]
    larger.real[:, :old], larger.whole[:, :old], larger.marks[:old] = pool.real, pool.whole, pool.marks
    return larger


def columns_of(real: Reals, whole: Wholes, marks: Marks) -> Columns:
    """Views."""
    counts = whole[0], whole[1], whole[2], whole[3], whole[4], whole[5]
    return Columns(real[0], *counts, marks, real[1], real[4], whole[9], whole[10], real[5])


def curves_of(real: Reals, whole: Wholes, survival: Reals, residual: Reals) -> Curves:
    """Views, and tables (C, G) of curves."""
    return Curves(survival, residual, whole[6], real[2])


def scratch_of(real: Reals, whole: Wholes, sums: Reals, chosen: Wholes, overtakes: Marks) -> Scratch:
    """Views."""
    profile = Profile(sums[0], sums[1], sums[2])
    return Scratch(whole[7], whole[8], real[3], profile, Result(chosen, overtakes), sums[3])


columns_in = inside(columns_of)
curves_in = inside(curves_of)
scratch_in = inside(scratch_of)
