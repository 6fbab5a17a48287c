"""What waiting requests would find in vLLM's prefix cache: `shared` and `idle` of their columns, kept up to date.

Exact where it matters and bounded everywhere: a request is looked up when it comes, when a block at one of its
boundaries changes (`boundaries`), and before it is admitted; besides, a few of those that wait are checked in turn,
since nothing tells when a free block is overwritten. vLLM's own check at admission stays the judge.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from kvhorizon.adapter.control.step_policy import Rule
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.prefix_cache.search import Found, PrefixCache

LOOK_MOST = 32  # requests looked up before a choice; the others of a flood follow in the next steps
FAST_PATH_MOST = 4  # likewise, in a step that would otherwise look at none
IN_TURN = 8  # of those with cached blocks that are free, so many are checked before a choice, the next ones each time


class Prefixes:
    """Of one engine. Without a prefix cache it does nothing."""

    def __init__(self, engine: Engine, rows: Rows, rule: Rule) -> None:
        self.cache = PrefixCache(engine)
        self.enabled = self.cache.enabled
        self.boundaries = rows.boundaries
        self._rows, self._rule = rows, rule
        self._size = engine.block_size
        self._held: dict[int, int] = {}  # by slot of those that join in this step: tokens of theirs in use before
        self._next = 0  # place in the queue of the one to be checked in turn
        rows.looked_up = self.enabled

    def own_tokens(self, request: Any) -> int:
        """Tokens of memory that a request that has only just come would take."""
        tokens = int(request.num_tokens)
        if not self.enabled or not request.block_hashes:
            return tokens
        return tokens - self.cache.found(request, *self.boundaries.like(request.block_hashes)).held * self._size

    def refresh(self, most: int = LOOK_MOST) -> None:
        """Look up those that are to be looked at again, at most so many."""
        if self.boundaries.stale:
            for slot in list(islice(self.boundaries.stale, most)):
                self._look_up(slot)

    def check_some(self, taken_blocks: int) -> None:
        """Some of those that could lose what is cached for them, when running requests take so many blocks first."""
        if not self.enabled:
            return
        self.cache.expect(taken_blocks)
        waiting = self._rows.waiting()
        waiting = waiting[self._rows.columns.idle[waiting] > 0]
        for _ in range(min(IN_TURN, len(waiting))):
            self._next = (self._next + 1) % len(waiting)
            self._look_up(int(waiting[self._next]))

    def confirm(self, slots: Iterable[int]) -> bool:
        """Whether what is known of these waiting requests is so; brought up to date where it is not."""
        if not self.enabled:
            return True
        changed = [slot for slot in slots if self._look_up(slot)]
        return not changed

    def scheduled(self, slot: int, request: Any, tokens: int, joined: bool) -> None:
        """A step computes so many of a request's tokens: full blocks among them are cached from now on, and with one
        that joined those are in use that no other request held."""
        hashes = request.block_hashes
        if self.enabled and hashes:
            computed = int(request.num_computed_tokens)
            first = min(computed - tokens, self._held.pop(slot, 0)) if joined else computed - tokens
            self.boundaries.changed(hashes, first // self._size, computed // self._size)

    def freed(self, slot: int, request: Any) -> None:
        """A running request gives its blocks back; what is in them stays until it is overwritten.

        Those that others hold stay in use; where vLLM has freed its own already, they are found by their hashes.
        """
        if self.enabled and len(self.boundaries):
            shared = self.cache.shared(request) if self.cache.holds(request) else self.cache.found(request).held
            self.boundaries.changed(request.block_hashes, shared)

    def admitted(self, slot: int, request: Any) -> None:
        """The request runs: of its blocks those are shared that others hold, too."""
        if self.enabled:
            cells = self._rows.cells
            if len(self.boundaries):
                self._held[slot] = cells.shared[slot]
            cells.shared[slot], cells.idle[slot] = self.cache.shared(request) * self._size, 0

    def _look_up(self, slot: int) -> bool:
        """Whether what is known of a waiting request has changed; it is put right."""
        rows = self._rows
        cells, request = rows.cells, rows.request[slot]
        self.boundaries.stale.pop(slot, None)
        hashes = request.block_hashes if request is not None and cells.waits[slot] else None
        if not hashes:
            return False
        shared, idle, size = cells.shared[slot], cells.idle[slot], self._size
        before = Found((shared + idle) // size, shared // size)
        found, held = now = self.cache.found(request, *(before if before.cached else self.boundaries.like(hashes)))
        self.boundaries.put(slot, hashes, found, held)
        if now == before:
            return False
        own = rows.tokens(slot)
        cells.shared[slot], cells.idle[slot] = held * size, (found - held) * size
        if self.cache.expecting:  # what is expected to be overwritten is there still, should it not be
            self.boundaries.stale[slot] = None
        if held < before.held:
            self._rule.left(own)
        self._rule.arrived(rows.tokens(slot))
        return True
