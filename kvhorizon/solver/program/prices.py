"""Dual prices of the program's shared resources, and how they carry over from one plan to the next.

A price stays with its bucket, whatever moment that is by then: under steady load the pool is tight so many steps from
now. It stays there when a new grid cuts time a little differently, too. Prices are sparse, most on the buckets just
before an admission point, so sharing them out by overlap in time would lose what they say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.program.model import Problem

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prices:
    """Dual prices in weighted seconds per unit."""

    blocks: FloatArray  # (K,)
    sequences: FloatArray  # (K,)
    prefill_token: FloatArray  # (A,)
    held_block: FloatArray  # (1,)

    @property
    def known(self) -> bool:
        """Whether any price is positive."""
        return bool(self.rows.any())

    @property
    def rows(self) -> FloatArray:
        """All of them, (2K + A + 1,)."""
        return np.concatenate([self.blocks, self.sequences, self.prefill_token, self.held_block])


def no_prices(problem: Problem) -> Prices:
    """Prices of zero, of the problem's shape."""
    _, points, buckets = problem.shape
    return Prices(np.zeros(buckets), np.zeros(buckets), np.zeros(points), np.zeros(1))
