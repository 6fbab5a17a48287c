"""One row per live request in the columns that the compiled rules read, kept up by the engine's own events.

Rows of waiting requests do not change, so nothing scans the queue; those of running ones are read when needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.cells import cells_of
from kvhorizon.adapter.engine.column_store import Pool, columns_of, curves_of, grown, new_pool, scratch_of
from kvhorizon.adapter.forecasting.finished import Told
from kvhorizon.adapter.forecasting.forecaster import Tables, curve_of, place
from kvhorizon.adapter.kinds.kinds import adapter_of
from kvhorizon.adapter.prefix_cache.boundaries import Boundaries
from kvhorizon.compiled.compiler import compiled
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.solver.heuristic.columns import Columns
from kvhorizon.solver.heuristic.scratch import Scratch

Slots = NDArray[np.int32]

MOST_KEPT = 4096  # curves by key


class Extra(NamedTuple):
    """(N,) each: what the wire or the plugin wants besides `Columns`."""

    handle: NDArray[np.uint64]
    key: NDArray[np.int64]  # leaf of the length history (`adapter.forecasting.keys`)
    hint_key: NDArray[np.int64]  # leaf of its hint; 0: none
    hint_tokens: NDArray[np.float64]
    curve: NDArray[np.int32]  # row of the tables
    scale: NDArray[np.float64]  # tokens per unit of the curve
    priority: NDArray[np.int64]
    admitted_s: NDArray[np.float64]
    waits: NDArray[np.bool_]
    steer: NDArray[np.bool_]  # ours to admit; others pass through untouched
    place: NDArray[np.int64]  # in `_queue`
    pending: NDArray[np.int64]  # of running requests, as `demand` wants it
    adapter: NDArray[np.int64]  # number of its LoRA adapter; 0: none


def _extra(pool: Pool) -> Extra:
    size = len(pool.marks)
    return Extra(
        np.zeros(size, np.uint64),
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
        np.zeros(size),
        pool.whole[6],
        pool.real[2],
        np.zeros(size, np.int64),
        np.zeros(size),
        np.zeros(size, np.bool_),
        np.zeros(size, np.bool_),
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
    )


@compiled
def close_gaps(queue, end, place):  # type: ignore[no-untyped-def]
    """Drop the gaps (-1) among the first `end` of the queue, and keep each one's `place`; returns the new end."""
    kept = 0
    for k in range(end):
        slot = queue[k]
        if slot >= 0:
            if k != kept:
                queue[kept] = slot
                place[slot] = kept
            kept += 1
    return kept


class Rows:
    """Slots are reused; handles never are."""

    def __init__(self, seats: int, tables: Tables, capacity: int = 1024) -> None:
        self.pool = new_pool(capacity, seats)
        self.extra = _extra(self.pool)
        self.slot_of: dict[str, int] = {}
        self.slot_of_handle: dict[int, int] = {}
        self.request: list[Any] = [None] * capacity
        self.told: list[Told | None] = [None] * capacity
        self.tables = tables
        self._curves: dict[int, tuple[int, float]] = {}  # by key, of those without a hint
        self.fresh: list[int] = []  # waiting rows whose `remaining` is not predicted yet
        self.boundaries = Boundaries()  # of what waiting requests find in the prefix cache
        self.looked_up = False  # whether anyone looks that up
        self._free = list(range(capacity - 1, -1, -1))
        self._next_handle = 1
        self._queue: Slots = np.full(capacity, -1, np.int32)  # slots in order of becoming waiting; -1 once taken
        self._end = 0
        self.num_waiting = 0
        self.num_passing = 0  # of those that wait, not ours to admit
        self.streaming = False  # some request came whose input streams: it may wait again without our being told
        self._view()
        self.cells = cells_of(self.columns, self.extra)

    def add(
        self,
        request: Any,
        arrival_s: float,
        limit: int,
        key: int,
        hint_key: int = 0,
        hint_tokens: float = 0.0,
        steer: bool = True,
        weight: float = 1.0,
    ) -> int:
        """A row for a waiting request; returns its slot."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        cells, extra, handle = self.cells, self.extra, self._next_handle
        self._next_handle += 1
        cells.arrival_s[slot] = arrival_s
        cells.prompt[slot] = request.num_prompt_tokens
        cells.limit[slot] = limit
        cells.weight[slot] = weight
        cells.out_of_order[slot] = 0
        cells.turn[slot] = -1.0
        cells.handle[slot] = handle
        extra.key[slot] = key
        extra.priority[slot] = request.priority
        extra.hint_key[slot], extra.hint_tokens[slot] = hint_key, hint_tokens
        cells.curve[slot], cells.scale[slot] = self._curve_of(key, hint_key, hint_tokens)
        cells.waits[slot] = False
        extra.steer[slot] = steer
        extra.adapter[slot] = adapter_of(request)
        self.streaming |= bool(request.resumable)
        self.request[slot] = request
        self.told[slot] = Told(handle, key, hint_key, hint_tokens, limit)
        self.slot_of[request.request_id] = slot
        self.slot_of_handle[handle] = slot
        self.wait(slot)
        return slot

    def wait(self, slot: int) -> None:
        """The request waits, for the first time or again after an eviction."""
        cells = self.cells
        if cells.waits[slot]:
            return
        request = self.request[slot]
        cells.generated[slot] = request.num_output_tokens
        cells.preemptions[slot] = request.num_preemptions
        cells.computed[slot] = cells.blocks[slot] = 0
        cells.shared[slot] = cells.idle[slot] = 0
        cells.waits[slot] = True
        self.num_passing += not self.extra.steer[slot]
        self._append(slot)
        self.fresh.append(slot)
        if self.looked_up:
            self.boundaries.stale[slot] = None
        if len(self.fresh) > len(self.request):  # not predicted for long
            self.fresh = self.waiting().tolist()

    def take(self, slot: int, now_s: float) -> None:
        """The request runs."""
        if self.cells.waits[slot]:
            self._leave(slot)
            self.extra.admitted_s[slot] = now_s

    def release(self, request_id: str) -> int | None:
        """The request is over; returns its slot, free from now on."""
        slot = self.slot_of.pop(request_id, None)
        if slot is None:
            return None
        if self.cells.waits[slot]:
            self._leave(slot)
        told = self.told[slot]
        if told is not None:
            self.slot_of_handle.pop(told.handle, None)
        self.request[slot] = self.told[slot] = None
        self._free.append(slot)
        return slot

    def tokens(self, slot: int) -> int:
        """Of memory that a waiting request would take: without those in blocks that others hold."""
        cells = self.cells
        tokens: int = cells.prompt[slot] + cells.generated[slot] - cells.shared[slot]
        return tokens

    def waiting(self) -> Slots:
        """(W,) slots in order of becoming waiting; a view, valid until the next event."""
        if self._end != self.num_waiting:
            self._end = close_gaps(self._queue, self._end, self.extra.place)
        return self._queue[: self._end]

    def use_tables(self, tables: Tables) -> None:
        """Swap in new curves; all waiting rows are to be predicted anew."""
        before, self.tables = self.tables, tables
        self._curves.clear()
        if (tables.rows, tables.ratio_rows, tables.distrusted) != (before.rows, before.ratio_rows, before.distrusted):
            extra = self.extra
            extra.curve[:], extra.scale[:] = place(tables, extra.key, extra.hint_key, extra.hint_tokens)
        self._view()
        self.fresh = self.waiting().tolist()

    def _curve_of(self, key: int, hint_key: int, hint_tokens: float) -> tuple[int, float]:
        """As `forecast.curve_of`; the newest are kept."""
        if hint_key > 0:
            return curve_of(self.tables, key, hint_key, hint_tokens)
        found = self._curves.get(key)
        if found is None:
            if len(self._curves) >= MOST_KEPT:
                self._curves.clear()
            found = self._curves[key] = curve_of(self.tables, key)
        return found

    def _view(self) -> None:
        """Columns, curves and scratch as they lie in the pool."""
        pool, tables = self.pool, self.tables
        self.columns: Columns = columns_of(pool.real, pool.whole, pool.marks)
        self.curves: Curves = curves_of(pool.real, pool.whole, tables.survival, tables.residual)
        self.scratch: Scratch = scratch_of(pool.real, pool.whole, pool.sums, pool.chosen, pool.overtakes)

    def _append(self, slot: int) -> None:
        if self._end == len(self._queue):
            self.waiting()  # closes the gaps, and there is one: no more wait than there are slots
        self._queue[self._end] = slot
        self.cells.place[slot] = self._end
        self._end += 1
        self.num_waiting += 1

    def _leave(self, slot: int) -> None:
        self._queue[self.cells.place[slot]] = -1
        self.cells.waits[slot] = False
        self.scratch.rank[slot] = 0
        if self.looked_up:
            self.boundaries.drop(slot)
        self.num_waiting -= 1
        self.num_passing -= not self.extra.steer[slot]

    def _grow(self) -> None:
        old, size = len(self.request), 2 * len(self.request)
        self.pool = grown(self.pool, size)
        extra = _extra(self.pool)
        arrays: tuple[NDArray[Any], ...] = (*extra,)
        for before, after in zip(self.extra, arrays, strict=True):
            after[:old] = before
        self.extra = extra
        queue = np.full(size, -1, np.int32)
        queue[:old] = self._queue
        self._queue = queue
        self.request += [None] * old
        self.told += [None] * old
        self._free = list(range(size - 1, old - 1, -1))
        self._view()
        self.cells = cells_of(self.columns, self.extra)
