"""Where the rows of waiting requests live between plans: computed once when a request is first seen, then looked up.

What a waiting request would hold if admitted at point a does not depend on when that is asked, so a row stays right
until the request, the buckets or its forecast change. A slot is a row of the program's arrays; rows never move, so the
arrays of one plan are those of the last with a few rows rewritten.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting_unlocked, unlocked
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.solver.program.occupancy import Grid, Row, Traits, hold_from

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
FIRST_SLOTS = 128
GROWTH = 1.5
TOGETHER = 16


class Rows(NamedTuple):
    """Options of each slot, twice: by request, to insert it, and by option, to price all requests at once."""

    blocks: FloatArray  # (S, A, K) chance-adjusted; 0 for k < k_a
    sequences: FloatArray  # (S, A, K) expected
    blocks_by_option: FloatArray  # (A, K, S)
    sequences_by_option: FloatArray  # (A, K, S)
    mean: FloatArray  # (A, S, K) of the blocks, before the chance adjustment
    variance: FloatArray  # (A, S, K)
    block_steps: FloatArray  # (S, A) expected block·steps until the horizon
    alive_steps: FloatArray  # (S, A) expected sequence·steps


class Slots(NamedTuple):
    """Who has which slot, and what its row was computed from."""

    handle: NDArray[np.uint64]  # (S,)
    taken: NDArray[np.bool_]  # (S,)
    traits: FloatArray  # (S, T)


class Arena:
    """Rows of one engine's requests; the first `reserved` slots are rewritten for each plan."""

    def __init__(self, reserved: int, grid: Grid) -> None:
        self.reserved, self.grid = reserved, grid
        self.rows, self.slots = _empty(reserved + FIRST_SLOTS, grid)
        self.size = reserved  # slots in use lie below

    def regrid(self, grid: Grid) -> None:
        """Cut time differently; requests keep their slots, and arrays of the same shape stay where they are."""
        if len(grid.bucket) != len(self.grid.bucket) or not np.array_equal(grid.bucket, self.grid.bucket):
            self.rows, _ = _empty(len(self.slots.taken), grid)
        self.grid = grid
        self.forget()

    def place(self, handle: NDArray[np.uint64], traits: FloatArray) -> tuple[IntArray, IntArray]:
        """Slot (w,) of each waiting request, and which of them (indices) need their row written.

        `handle` (w,), distinct; `traits` (w, T) are what a row depends on. Slots of all others become free.
        """
        if self.slots.traits.shape[1] != traits.shape[1]:
            self.slots = self.slots._replace(traits=np.full((len(self.slots.taken), traits.shape[1]), np.nan))
        if self.reserved + len(handle) > len(self.slots.taken):
            self._grow(self.reserved + int(GROWTH * len(handle)))
        table = np.full(1 << int(4 * len(self.slots.taken)).bit_length(), -1)
        slot, stale = np.empty(len(handle), np.int64), np.zeros(len(handle), np.bool_)
        self.size = int(assign(self.slots, self.reserved, handle, traits, table, slot, stale))
        return slot, np.flatnonzero(stale)

    def follow(self, other: Arena) -> None:
        """Give each request the slot that it has in `other`; rows that were another's are to be written."""
        if len(self.slots.taken) < len(other.slots.taken):
            self._grow(len(other.slots.taken))
        count, mine, theirs = len(other.slots.taken), self.slots, other.slots
        mine.traits[:count][mine.handle[:count] != theirs.handle] = np.nan
        mine.handle[:count] = theirs.handle
        mine.taken[:] = False
        mine.taken[:count] = theirs.taken

    def write(
        self, slot: IntArray, rows: IntArray, curves: Curves, traits: Traits, block_size: int, spread_price: FloatArray
    ) -> None:
        """Compute the rows of requests `rows` (n,), indices of `curves` and `traits`, into `slot` (n,)."""
        write_rows(self.rows, slot, rows, curves, traits, self.grid, float(block_size), spread_price)
        turn_rows(self.rows.blocks, self.rows.blocks_by_option, slot, self.grid.bucket)
        turn_rows(self.rows.sequences, self.rows.sequences_by_option, slot, self.grid.bucket)

    def reprice(self, spread_price: FloatArray) -> None:
        """P of all rows anew from their means and variances; `spread_price` (K,)."""
        reprice_rows(self.rows, self.size, self.grid.bucket, spread_price)

    def keep_now(self, slot: IntArray, blocks: FloatArray) -> None:
        """Replace what option 0 of `slot` (n,) holds by `blocks` (n, K)."""
        self.rows.blocks[slot, 0] = blocks
        self.rows.blocks_by_option[0][:, slot] = blocks.T

    def offered(self) -> tuple[FloatArray, FloatArray]:
        """Mean and variance (K,) of the blocks that all waiting requests would hold if they ran from now on."""
        sums = np.zeros((2, len(self.grid.edges) - 1))
        add_up(self.slots.taken, self.size, self.rows.mean[0], self.rows.variance[0], sums)
        return sums[0], sums[1]

    def forget(self) -> None:
        """All rows are to be written anew, each where it is."""
        self.slots.traits[:] = np.nan

    def _grow(self, size: int) -> None:
        old, held = self.rows, self.slots
        self.rows, self.slots = _empty(size, self.grid, held.traits.shape[1])
        count = len(held.taken)
        for new, before in zip((*self.rows, *self.slots), (*old, *held), strict=True):
            axis = next(i for i, length in enumerate(new.shape) if length != before.shape[i])
            new[(slice(None),) * axis + (slice(0, count),)] = before


def _empty(size: int, grid: Grid, traits: int = 0) -> tuple[Rows, Slots]:
    points, buckets = len(grid.bucket), len(grid.edges) - 1
    rows = Rows(
        np.zeros((size, points, buckets)),
        np.zeros((size, points, buckets)),
        np.zeros((points, buckets, size)),
        np.zeros((points, buckets, size)),
        np.zeros((points, size, buckets)),
        np.zeros((points, size, buckets)),
        np.zeros((size, points)),
        np.zeros((size, points)),
    )
    return rows, Slots(np.zeros(size, np.uint64), np.zeros(size, np.bool_), np.full((size, traits), np.nan))


@unlocked
def bucket_of(table, handles, handle):  # type: ignore[no-untyped-def]
    """Place in the hash `table` of `handle`, or the empty place where it belongs (linear probing)."""
    mask = len(table) - 1
    place = np.int64((handle * np.uint64(11400714819323198485)) >> np.uint64(20)) & mask
    while table[place] >= 0 and handles[table[place]] != handle:
        place = (place + 1) & mask
    return place


@counting_unlocked
def assign(slots, reserved, handle, traits, table, slot, stale):  # type: ignore[no-untyped-def]
    """Fill `slot` and `stale` (w,); frees slots of requests not named; returns the end of the slots in use."""
    size = len(slots.taken)
    for s in range(reserved, size):
        if slots.taken[s]:
            table[bucket_of(table, slots.handle, slots.handle[s])] = s
            slots.taken[s] = False
    for i in range(len(handle)):
        s = table[bucket_of(table, slots.handle, handle[i])]
        slot[i] = s
        if s >= 0:
            slots.taken[s] = True
            for t in range(traits.shape[1]):
                stale[i] = stale[i] or slots.traits[s, t] != traits[i, t]
    free, end = reserved, reserved
    for i in range(len(handle)):
        if slot[i] < 0:
            while slots.taken[free]:
                free += 1
            slot[i] = free
            slots.taken[free] = True
            slots.handle[free] = handle[i]
            stale[i] = True
        if stale[i]:
            slots.traits[slot[i]] = traits[i]
        end = max(end, slot[i] + 1)
    return end


@unlocked
def write_rows(rows, slot, which, curves, traits, grid, block_size, spread_price):  # type: ignore[no-untyped-def]
    """P = E + price of spread · Var and Q of each option, and their sums over time."""
    points, buckets = rows.blocks.shape[1:]
    for i in range(len(slot)):
        s = slot[i]
        for a in range(points):
            mean, variance, alive = rows.mean[a, s], rows.variance[a, s], rows.sequences[s, a]
            hold_from(curves, traits, which[i], grid, a, block_size, Row(mean, variance, alive))
            block_steps, alive_steps = 0.0, 0.0
            for k in range(grid.bucket[a], buckets):
                width = grid.edges[k + 1] - grid.edges[k]
                block_steps += mean[k] * width
                alive_steps += alive[k] * width
                rows.blocks[s, a, k] = mean[k] + spread_price[k] * variance[k]
            rows.block_steps[s, a] = block_steps
            rows.alive_steps[s, a] = alive_steps


@unlocked
def reprice_rows(rows, size, bucket, spread_price):  # type: ignore[no-untyped-def]
    """P = E + price of spread · Var of the first `size` slots, a few at a time as in `turn_rows`."""
    points, buckets = rows.blocks.shape[1:]
    for first in range(0, size, TOGETHER):
        last = min(first + TOGETHER, size)
        for a in range(points):
            for k in range(bucket[a], buckets):
                for s in range(first, last):
                    blocks = rows.mean[a, s, k] + spread_price[k] * rows.variance[a, s, k]
                    rows.blocks[s, a, k] = blocks
                    rows.blocks_by_option[a, k, s] = blocks


@unlocked
def add_up(taken, size, mean, variance, sums):  # type: ignore[no-untyped-def]
    """Add mean and variance (S, K) of the slots taken to `sums` (2, K)."""
    for s in range(size):
        if taken[s]:
            for k in range(sums.shape[1]):
                sums[0, k] += mean[s, k]
                sums[1, k] += variance[s, k]


@unlocked
def turn_rows(by_request, by_option, slot, bucket):  # type: ignore[no-untyped-def]
    """Copy the rows of `slot` (n,) from (S, A, K) to (A, K, S), a few at a time, so that both stay in cache."""
    points, buckets = by_request.shape[1:]
    for first in range(0, len(slot), TOGETHER):
        last = min(first + TOGETHER, len(slot))
        for a in range(points):
            for k in range(bucket[a], buckets):
                for i in range(first, last):
                    by_option[a, k, slot[i]] = by_request[slot[i], a, k]
