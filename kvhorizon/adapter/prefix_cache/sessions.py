"""Sessions between two turns in the live engine: a later turn is known by its chain of block hashes.

A request whose chain contains the last full block of one that has ended continues it; no client needs to say so. What
is kept of a chain is bounded: its last hash, by which it is found, and a few more that say how much is still cached.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.prefix_cache.search import PrefixCache, boundary
from kvhorizon.models.forecast.returns import FIRST_TURN, LATER_TURN
from kvhorizon.solver.heuristic.idle_sessions import (
    MOST,
    expected_tokens,
    is_due,
    new_idle_sessions,
    turn_came,
    turn_ended,
)

Hash = bytes

PROBES = 1024  # blocks of a new request's chain, from its end, in which the end of an earlier one is looked for
SAMPLES = 32  # hashes kept of a chain
CHECKED = 64  # sessions whose cached part is looked up before a sum, the next ones each time
ABORTED = "FINISHED_ABORTED"


class _Chain:
    """Of one session: some of its hashes, how many leading blocks each stands for, and how many are still cached."""

    __slots__ = ("found", "hashes", "places", "shared")

    def __init__(self, hashes: list[Hash], places: list[int], shared: int) -> None:
        self.hashes, self.places, self.shared = hashes, places, shared  # tokens that others held when it ended
        self.found = len(hashes)


class Sessions:
    """Of one engine. Without a prefix cache there are none."""

    def __init__(self, engine: Engine, rows: Rows, cache: PrefixCache) -> None:
        self.enabled = cache.enabled and cache.by_block
        self.idle = new_idle_sessions()
        self.returned = 0  # turns that continued an earlier one
        self._cache, self._rows = cache, rows
        self._size, self._capacity = engine.block_size, engine.total_blocks * engine.block_size
        self._chains: dict[int, _Chain] = {}  # by key, in order of their end
        self._key_of: dict[Hash, int] = {}  # by last hash
        self._later: set[str] = set()  # requests here that continue an earlier one
        self._next_key = 0
        self._checked = 0  # place of the next one whose cached part is looked up

    def came(self, request: Any, now_s: float) -> None:
        """A request is here; perhaps a session's next turn."""
        if not self._key_of:
            return
        key_of = self._key_of
        for one in islice(reversed(request.block_hashes), PROBES):
            key = key_of.get(one)
            if key is not None:
                self._forget(key)
                self.returned += turn_came(self.idle, key, now_s)
                self._later.add(request.request_id)
                return

    def ended(self, slot: int, request: Any, now_s: float) -> None:
        """A running request is over: its session, if it is one, is away."""
        hashes = request.block_hashes
        shared = self._rows.cells.shared[slot]
        kind = LATER_TURN if request.request_id in self._later else FIRST_TURN
        if not self.enabled or len(hashes) * self._size <= shared or request.status.name == ABORTED:
            return
        last = next(reversed(hashes))
        known = self._key_of.get(last)
        if known is not None:  # the same context again: one of them is counted
            self._forget(known)
            turn_came(self.idle, known, now_s)
        while len(self._chains) >= MOST:
            self._forget(next(iter(self._chains)))
        key, self._next_key = self._next_key, self._next_key + 1
        places = _sampled(len(hashes))
        self._chains[key] = _Chain([hashes[place - 1] for place in places], places, shared)
        self._key_of[last] = key
        turn_ended(self.idle, key, kind, now_s, float(len(hashes) * self._size - shared))

    def gone(self, request: Any) -> None:
        """The request is over, whether it ever ran or not."""
        self._later.discard(request.request_id)

    def returning_tokens(self, now_s: float, prefill_s_per_token: float) -> float:
        """KV that is expected to be used again by sessions' next turns, as far as keeping it pays."""
        if not self._chains:
            return 0.0
        if is_due(self.idle, now_s):
            self._see_what_is_cached()
        return float(expected_tokens(self.idle, now_s, self._capacity * prefill_s_per_token))

    def _see_what_is_cached(self) -> None:
        """Of some of the sessions: how much of their chain is left."""
        size = int(self.idle.size[0])
        start = self._checked % size if size > CHECKED else 0
        for turn in range(min(size, CHECKED)):
            place = (start + turn) % size
            chain = self._chains[int(self.idle.key[place])]
            chain.found = boundary(chain.hashes, len(chain.hashes), chain.found, self._cache.is_cached)
            found = chain.places[chain.found - 1] if chain.found else 0
            self.idle.tokens[place] = max(found * self._size - chain.shared, 0)
        self._checked = start + CHECKED

    def _forget(self, key: int) -> None:
        chain = self._chains.pop(key)
        del self._key_of[chain.hashes[-1]]


def _sampled(blocks: int) -> list[int]:
    """Ascending counts of leading blocks, at most `SAMPLES` of them, the last one `blocks`."""
    step = -(-blocks // SAMPLES)
    return list(range(blocks, 0, -step))[::-1]
