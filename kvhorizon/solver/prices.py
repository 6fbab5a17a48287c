"""Dual prices of the program's shared resources, and how they carry over from one plan to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.problem import Problem

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prices:
    """Dual prices in weighted seconds per unit, and the buckets that they are for."""

    blocks: FloatArray  # (K,)
    sequences: FloatArray  # (K,)
    prefill_token: FloatArray  # (A,)
    held_block: FloatArray  # (1,)
    bucket_steps: FloatArray  # (K + 1,)

    def recut(self, problem: Problem) -> Prices:
        """These prices for the next problem, which may cut time differently.

        Prices are kept by the distance ahead, not by the moment: under steady load the pool is tight so many steps
        from now, whenever that is. A bucket's price is the time integral of a price per step, so it is shared out by
        overlap.
        """
        points = problem.shape[1]
        same = len(self.prefill_token) == points
        if same and np.array_equal(self.bucket_steps, problem.bucket_steps):
            return self
        return Prices(
            blocks=_shared_out(self.blocks, self.bucket_steps, problem.bucket_steps),
            sequences=_shared_out(self.sequences, self.bucket_steps, problem.bucket_steps),
            prefill_token=self.prefill_token if same else np.zeros(points),
            held_block=self.held_block,
            bucket_steps=problem.bucket_steps,
        )

    @property
    def known(self) -> bool:
        """Whether any price is positive."""
        return bool(self.rows.any())

    @property
    def rows(self) -> FloatArray:
        """All of them, (2K + A + 1,)."""
        return np.concatenate([self.blocks, self.sequences, self.prefill_token, self.held_block])


def _shared_out(price: FloatArray, old_edges: FloatArray, new_edges: FloatArray) -> FloatArray:
    total = np.concatenate([[0.0], np.cumsum(price)])
    return np.diff(np.interp(new_edges, old_edges, total))


def no_prices(problem: Problem) -> Prices:
    """Prices of zero, of the problem's shape."""
    _, points, buckets = problem.shape
    return Prices(np.zeros(buckets), np.zeros(buckets), np.zeros(points), np.zeros(1), problem.bucket_steps)
