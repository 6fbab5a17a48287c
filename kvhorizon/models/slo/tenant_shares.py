"""Tenants' shares of the KV in use: who holds more than was agreed weighs less, while others want some.

    factor = min(1, share / held share)        held share = blocks that a tenant's requests hold / blocks in use

A lone tenant may have it all. The factor multiplies the weights of all the tenant's requests, running and waiting; it
is as of the last tick, so that a step only reads it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.slo.classes import Classes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NO_SHARE = np.inf  # of a tenant for which none was agreed


def share_factors(share: FloatArray, held: FloatArray, waits: NDArray[np.bool_]) -> FloatArray:
    """(T,) factors in (0, 1] of tenants with these shares who hold so many blocks, and have requests waiting or not."""
    total = held.sum()
    if total <= 0.0 or np.count_nonzero(waits | (held > 0.0)) < 2:
        return np.ones(len(share))
    return np.asarray(np.minimum(1.0, share * total / np.maximum(held, 1e-9)))


class Ledger:
    """Tenants by number, and their factors."""

    def __init__(self, share: FloatArray) -> None:
        self.share = share  # (T,) NO_SHARE where there is none
        self.factor = np.ones(len(share))

    def see(self, holders: IntArray, blocks: NDArray[np.int32], waiting: IntArray) -> None:
        """Tenants of the running requests (r,) and the blocks that each holds; tenants of the waiting ones (w,)."""
        held = np.bincount(holders, weights=blocks, minlength=len(self.share)).astype(np.float64)
        waits = np.zeros(len(self.share), bool)
        waits[waiting] = True
        self.factor = share_factors(self.share, held, waits)


def ledger_of(names: tuple[str, ...], classes: Classes) -> Ledger:
    """Of tenants in this order."""
    return Ledger(np.array([classes.tenants.get(name, NO_SHARE) for name in names], np.float64))
