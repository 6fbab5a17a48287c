"""The running requests as columns, and what they will take in this step.

They are read from the engine where something has happened to them. In between, while all of them decode, each step
advances every one by a token, and which of them fill a block in which step is known beforehand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine import Engine
from kvhorizon.adapter.rows import Rows, Slots

IntArray = NDArray[np.int64]

CALM_STEPS = (16, 4, 1)  # looks ahead that are tried, the longest first


class Demand(NamedTuple):
    """Of the running requests in this step, (R,) each, in the order in which they share the token budget."""

    slots: Slots
    tokens: IntArray
    blocks: IntArray  # to be newly allocated
    owed_blocks: int  # beyond those, until all prefills are complete
    total_blocks: int  # sum of `blocks`


class Batch:
    """Of one engine. The guest tells who joins and goes; `rows.columns` is as of the last `demand`."""

    def __init__(self, engine: Engine, rows: Rows) -> None:
        self.engine, self.rows = engine, rows
        self.reads = 0  # of all running requests
        self._slots: Slots = np.zeros(0, np.int32)
        self._current = False  # `_slots` are the engine's, and the columns but for `_ahead` steps
        self._decoding = False  # each of them wants one token
        self._ahead = 0
        self._due = [0] * engine.block_size  # decodes that will want a block, by step modulo the block's size
        self._phase = 0

    def changed(self) -> None:
        """Read them anew before use."""
        self._current = False

    def gone(self, slot: int) -> None:
        """One has finished or is being evicted; call it before its row changes."""
        if self._current:
            self._slots = self._slots[self._slots != slot]
            position = int(self.rows.columns.computed[slot]) + self._ahead + self.engine.lookahead
            self._due[(self._phase - position) % self.engine.block_size] -= 1

    def reordered(self, places: list[int]) -> None:
        """Those at `places` were put last, the first of them at the very end."""
        if self._current:
            moved = np.array(places)
            self._slots = np.concatenate([np.delete(self._slots, moved), self._slots[moved[::-1]]])

    def advanced(self, tokens: int, joined: bool) -> None:
        """A step was scheduled with so many tokens in all."""
        if joined or not self._decoding or tokens != len(self._slots):
            self._current = False
        self._ahead += 1
        self._phase += 1

    def wanted_blocks(self) -> int | None:
        """New blocks of the step to come, where that is known without a look; else None."""
        return self._due[self._phase % self.engine.block_size] if self._known else None

    def demand(self) -> Demand:
        """What they will take in the step to come."""
        return self._decodes() if self._known else self._read()

    @property
    def _known(self) -> bool:
        return self._current and self._decoding and len(self._slots) == len(self.engine.scheduler.running)

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

    def _decodes(self) -> Demand:
        engine, slots = self.engine, self._slots
        columns = self.rows.columns
        columns.computed[slots] += self._ahead
        columns.generated[slots] += self._ahead
        self._ahead = 0
        computed = columns.computed[slots].astype(np.int64) + engine.lookahead
        held = engine.blocks_of(computed)
        columns.blocks[slots] = held
        blocks = engine.blocks_of(computed + 1) - held
        tokens = np.ones(len(slots), np.int64)
        return Demand(slots, tokens, blocks, 0, int(blocks.sum()))

    def _read(self) -> Demand:
        engine, columns, running = self.engine, self.rows.columns, self.engine.scheduler.running
        self.reads += 1
        slot_of = self.rows.slot_of
        slots: Slots = np.array([slot_of[request.request_id] for request in running], dtype=np.int32)
        generated: IntArray = np.array([request.num_output_tokens for request in running], dtype=np.int64)
        computed: IntArray = np.array([request.num_computed_tokens for request in running], dtype=np.int64)
        known = columns.prompt[slots] + generated
        pending = np.maximum(known + self._placeholders(running) - computed, 0)
        held = engine.blocks_of(computed + engine.lookahead)
        held[computed == 0] = 0
        self._decoding = engine.step_tokens == 1 and bool((pending == 1).all()) and len(running) <= engine.token_budget
        pending[pending == 1] = engine.step_tokens
        tokens = self._share(pending, engine.max_model_len - 1 - computed)
        wanted = engine.blocks_of(computed + tokens + engine.lookahead)
        blocks = np.where(tokens > 0, np.maximum(wanted - held, 0), 0)
        columns.generated[slots] = generated
        columns.computed[slots] = computed
        columns.blocks[slots] = held
        owed = int(np.maximum(engine.blocks_of(known) - held - blocks, 0).sum())
        self._slots, self._current, self._ahead, self._phase = slots, True, 0, 0
        size = engine.block_size
        self._due = np.bincount(-(computed + engine.lookahead) % size, minlength=size).tolist()
        return Demand(slots, tokens, blocks, owed, int(blocks.sum()))

    def _placeholders(self, running: list[Any]) -> IntArray | int:
        """Output in flight, whose tokens nobody knows yet."""
        if not self.engine.asynchronous:
            return 0
        return np.array([request.num_output_placeholders for request in running], dtype=np.int64)

    def _share(self, pending: IntArray, until_limit: IntArray) -> IntArray:
        """Tokens that each running request gets of the step's budget, in order."""
        wished = np.minimum(pending, np.maximum(until_limit, 0))
        if self.engine.long_prefill > 0:
            wished = np.minimum(wished, self.engine.long_prefill)
        before = np.cumsum(wished) - wished
        return np.asarray(np.clip(self.engine.token_budget - before, 0, wished), dtype=np.int64)
