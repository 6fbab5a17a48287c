"""The running requests as columns, and what they will take in this step.

Most of them are steady: each step gives them a token, and which of them fill a block in which step is known
beforehand, so that nothing is read of them. The few others (prefills, those that were left out of a step; all, where
there are drafts) are open, and read one by one. Where the engine did otherwise than expected, and every `READ_EVERY`
steps, all are read anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.adapter.engine.step_demand import STEADY, Demand, Sizes, Wishes, share
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.compiled.compiler import compiled

IntArray = NDArray[np.int64]

CALM_STEPS = (16, 4, 1)  # looks ahead that are tried, the longest first
READ_EVERY = 512


class Batch:
    """Of one engine. The scheduler plugin tells who joins and goes; `rows.columns` is as of the last `demand`."""

    def __init__(self, engine: Engine, rows: Rows) -> None:
        self.engine, self.rows = engine, rows
        self.reads = 0  # of all running requests
        self._sizes = engine.sizes
        self._numbers: IntArray = np.array(engine.sizes, dtype=np.int64)
        self._room = max(engine.max_active, 1)
        self._slots: Slots = np.zeros(self._room, np.int32)  # the first `_count` of them, in the engine's order
        self._count = 0
        self._gone: list[int] = []  # slots that are still among the first, besides
        self._tokens: IntArray = np.zeros(self._room, np.int64)
        self._blocks: IntArray = np.zeros(self._room, np.int64)
        self._current = False  # all the rest is what the engine has
        self.open: dict[int, Any] = {}  # by slot, requests that are not steady: prefills above all
        self._ahead = 0  # steps by which the columns of the steady lag
        self._phase = 0  # steps since all were read
        self._due = [0] * engine.block_size  # steady requests that will want a block, by phase modulo the block's size

    def changed(self) -> None:
        """Read them anew before use."""
        self._current = False

    def gone(self, slot: int) -> None:
        """One has finished or is being evicted; call it before its row changes."""
        if not self._current:
            return
        self._count -= 1
        self._gone.append(slot)
        if self.open.pop(slot, None) is None:
            self._count_due(self.rows.cells.computed[slot] + self._ahead, -1)

    def reordered(self, places: list[int]) -> None:
        """Those at `places` were put last, the first of them at the very end."""
        self._close_gaps()
        if self._current:
            slots, count = self._slots[: self._count], self._count
            moved = slots[places[::-1]]
            for place in sorted(places, reverse=True):
                slots[place:-1] = slots[place + 1 :]
            slots[count - len(places) :] = moved

    def advanced(self, num_tokens: Mapping[str, int], total_tokens: int, joined: Collection[int]) -> None:
        """A step was scheduled: so many tokens of each request; slots of those that joined, in the engine's order."""
        if not self._current:
            return
        self._ahead += 1
        self._phase += 1
        if not joined and not self.open and total_tokens == self._count:
            return
        if joined:
            self._close_gaps()
        for slot in joined:
            if self._count == self._room:
                self._current = False
                return
            self._slots[self._count] = slot
            self._count += 1
            self.open[slot] = self.rows.request[slot]
        steady = self._count - len(self.open)
        rest = sum(num_tokens.get(request.request_id, 0) for request in self.open.values())
        if total_tokens != steady + rest and not self._left_out(num_tokens, steady + rest - total_tokens):
            self._current = False

    def wanted_blocks(self) -> int | None:
        """New blocks of the step to come at most, where that is known without a full look; else None."""
        if not self.counted:
            return None
        return (self._settle() if self.open else 0) + self._due[self._phase % self._sizes.block_size]

    def demand(self, scheduled: bool = False) -> Demand:
        """What they will take in the step to come.

        `scheduled`: the step before it is still at work, and with it a token of each request that it brings that far.
        """
        self._close_gaps()
        if self.counted:
            self._settle(scheduled)
        else:
            self._read(scheduled)
        slots, count = self._slots[: self._count], self._count
        tokens, blocks, rows = self._tokens[:count], self._blocks[:count], self.rows
        real, whole, marks, *_ = rows.pool
        wishes = Wishes(tokens, blocks)
        totals = share(real, whole, marks, rows.extra.pending, slots, self._ahead, self._numbers, wishes)
        self._ahead = 0
        return Demand(slots, tokens, blocks, *totals)

    @property
    def counted(self) -> bool:
        """Whether all is known that a full reading would find."""
        return self._current and self._count == len(self.engine.scheduler.running) and self._phase < READ_EVERY

    def calm_steps(self, demand: Demand) -> int:
        """Steps in which the running requests cannot lack blocks, unless others join them.

        In k steps none of them gets further than k decodes past its known tokens.
        """
        columns, slots, engine = self.rows.columns, demand.slots, self.engine
        furthest = np.maximum(columns.prompt[slots] + columns.generated[slots], columns.computed[slots])
        furthest, free = furthest + engine.lookahead, engine.free_blocks + int(columns.blocks[slots].sum())
        for steps in CALM_STEPS:
            if int(engine.blocks_of(furthest + steps * engine.step_tokens).sum()) <= free:
                return steps
        return 0

    def _close_gaps(self) -> None:
        """Take those out that are gone: before any joins, since a slot may be used again."""
        if self._gone:
            count = self._count + len(self._gone)
            for slot in self._gone:
                count = take_out(self._slots, count, slot)
            self._current = self._current and count == self._count  # else one of them never ran
            self._gone = []

    def _settle(self, scheduled: bool = False) -> int:
        """Read the open ones; who decodes from now on becomes steady. Returns blocks that the others want at most."""
        columns, pending, sizes = self.rows.columns, self.rows.extra.pending, self._sizes
        wanted, settled = 0, []
        for slot, request in self.open.items():
            generated, computed = request.num_output_tokens, request.num_computed_tokens
            placeholders = request.num_output_placeholders if self.engine.asynchronous else 0
            left = max(request.num_prompt_tokens + generated + placeholders - computed, 0)
            if scheduled:
                generated += max(placeholders - 1, 0) if self.engine.asynchronous else left == 0
                left = max(left, not self.engine.asynchronous)
            if sizes.step_tokens > 1:
                left += len(request.spec_token_ids)
                columns.blocks[slot] = self.engine.holds(request)
            columns.generated[slot], columns.computed[slot], pending[slot] = generated, computed, left
            if left == 1 and sizes.step_tokens == 1:
                settled.append(slot)
            else:
                wanted += _most_blocks(computed, left, int(columns.blocks[slot]), sizes)
        for slot in settled:
            del self.open[slot]
            self._count_due(int(columns.computed[slot]), 1)
            columns.generated[slot] -= self._ahead
            columns.computed[slot] -= self._ahead
            pending[slot] = STEADY
        return wanted

    def _read(self, scheduled: bool) -> None:
        """All of them."""
        columns, extra, running = self.rows.columns, self.rows.extra, self.engine.scheduler.running
        self.reads += 1
        slot_of = self.rows.slot_of
        slots: Slots = np.array([slot_of[request.request_id] for request in running], dtype=np.int32)
        generated: IntArray = np.array([request.num_output_tokens for request in running], dtype=np.int64)
        computed: IntArray = np.array([request.num_computed_tokens for request in running], dtype=np.int64)
        placeholders = self._placeholders(running)
        pending = np.maximum(columns.prompt[slots] + generated + placeholders - computed, 0)
        if scheduled:
            generated += np.maximum(placeholders - 1, 0) if self.engine.asynchronous else pending == 0
            pending = np.maximum(pending, not self.engine.asynchronous)
        if self._sizes.step_tokens > 1:
            pending = pending + [len(request.spec_token_ids) for request in running]
            columns.blocks[slots] = [self.engine.holds(request) for request in running]
        steady = (pending == 1) & (self._sizes.step_tokens == 1)
        columns.generated[slots], columns.computed[slots] = generated, computed
        extra.pending[slots] = np.where(steady, STEADY, pending)
        self._make_room(len(running))
        self._count, self._gone = len(running), []
        self._slots[: self._count] = slots
        self.open = {int(slots[place]): running[place] for place in np.flatnonzero(~steady).tolist()}
        self._current, self._ahead, self._phase = True, 0, 0
        size = self._sizes.block_size
        self._due = np.bincount(-(computed[steady] + self._sizes.lookahead) % size, minlength=size).tolist()

    def _placeholders(self, running: list[Any]) -> IntArray | int:
        """Output in flight, whose tokens nothing knows yet."""
        if not self.engine.asynchronous:
            return 0
        return np.array([request.num_output_placeholders for request in running], dtype=np.int64)

    def _left_out(self, num_tokens: Mapping[str, int], missing: int) -> bool:
        """Open those steady ones that got no token, if that explains why `missing` tokens are."""
        idle = [request for request in self.engine.scheduler.running if request.request_id not in num_tokens]
        slots = [self.rows.slot_of[request.request_id] for request in idle]
        opened = {slot: request for slot, request in zip(slots, idle, strict=True) if slot not in self.open}
        if len(opened) != missing:
            return False
        for slot in opened:
            self._count_due(int(self.rows.columns.computed[slot]) + self._ahead, -1)
        self.open.update(opened)
        return True

    def _count_due(self, computed: int, change: int) -> None:
        """A steady request of so many computed tokens comes (1) or goes (-1)."""
        self._due[(self._phase - computed - self._sizes.lookahead) % self._sizes.block_size] += change

    def _make_room(self, count: int) -> None:
        if count > self._room:
            self._room = count
            self._slots = np.zeros(count, np.int32)
            self._tokens, self._blocks = np.zeros(count, np.int64), np.zeros(count, np.int64)


@compiled
def take_out(slots, count, slot):  # type: ignore[no-untyped-def]
    """Close the gap that `slot` leaves in the first `count` of them, if it is there; returns how many are left."""
    place = 0
    while place < count and slots[place] != slot:
        place += 1
    for k in range(place + 1, count):
        slots[k - 1] = slots[k]
    return count - 1 if place < count else count


def _most_blocks(computed: int, left: int, blocks: int, sizes: Sizes) -> int:
    """New blocks of a request that gets all it wants, up to a whole step's; with drafts, beside its `blocks`."""
    tokens = computed + max(min(left, sizes.token_budget), 1) + sizes.lookahead
    held = -(-min(computed + sizes.lookahead, sizes.max_model_len) // sizes.block_size) if computed else 0
    if sizes.step_tokens > 1:
        held = max(held, blocks)
    return max(-(-min(tokens, sizes.max_model_len) // sizes.block_size) - held, 0)
