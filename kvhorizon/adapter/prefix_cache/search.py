"""vLLM's prefix cache, read: how much of a waiting request's prompt is cached, and what running requests share.

A chain's blocks become free from its end, so its end is overwritten first: its cached blocks, and those in use, each
end at one boundary, found by bisection; one that was right before is confirmed by two look-ups. (Equal blocks computed
side by side can make the second boundary too small; vLLM's own check at admission stays the judge.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from kvhorizon.adapter.engine.view import Engine, block_tables, growing_group


class Found(NamedTuple):
    """What vLLM would find of a waiting request: leading blocks that are cached, and how many of them others hold."""

    cached: int
    held: int


class PrefixCache:
    """Of one engine. Without prefix caching nothing is ever found."""

    def __init__(self, engine: Engine) -> None:
        self.enabled = engine.prefix_tokens > 0
        self.block_size = engine.block_size
        scheduler = engine.scheduler
        self._manager = scheduler.kv_cache_manager
        self._tables = block_tables(scheduler)
        self._group = [growing_group(scheduler)]
        pool, groups = self._manager.block_pool, scheduler.kv_cache_config.kv_cache_groups
        plain = len(groups) == 1 and getattr(pool, "hash_block_size", None) == self.block_size
        self._lookup = getattr(pool, "get_cached_block", None) if plain else None
        self._head = getattr(getattr(pool, "free_block_queue", None), "fake_free_list_head", None)
        self._taken: set[int] = set()  # blocks that the running requests take in this step
        self.by_block = self._lookup is not None  # one block per hash

    def is_cached(self, one: bytes) -> bool:
        """Whether a block with this hash is found; only `by_block`."""
        return self._lookup is not None and self._lookup(one, self._group) is not None

    def found(self, request: Any, found: int = 0, held: int = 0) -> Found:
        """Leading blocks that vLLM would find of a waiting request, and how many of them others hold.

        `found` and `held` are guesses.
        """
        if not self.enabled or getattr(request, "skip_reading_prefix_cache", False):
            return Found(0, 0)
        hashes = request.block_hashes
        most = min((int(request.num_tokens) - 1) // self.block_size, len(hashes))
        if most <= 0:
            return Found(0, 0)
        lookup, group = self._lookup, self._group
        if lookup is None:
            return self._computed(request)
        taken = self._taken
        found = boundary(hashes, most, found, lambda one: _lasts(lookup(one, group), taken))
        held = boundary(hashes, found, held, lambda one: _in_use(lookup(one, group)))
        return Found(found, held)

    def expect(self, blocks: int) -> None:
        """The running requests take so many blocks in this step, before any is admitted: the first that are free.

        What is cached in them is overwritten, so it is no longer found.
        """
        self._taken.clear()
        block = None if self._head is None else self._head.next_free_block
        while blocks > 0 and block is not None:
            self._taken.add(block.block_id)
            block, blocks = block.next_free_block, blocks - 1

    @property
    def expecting(self) -> bool:
        """Whether blocks are expected to be taken that still hold what is cached in them."""
        return bool(self._taken)

    def holds(self, request: Any) -> bool:
        """Whether a request has blocks at the moment."""
        return bool((self._tables or {}).get(request.request_id))

    def shared(self, request: Any) -> int:
        """Leading blocks of a running request that others hold, too."""
        blocks = (self._tables or {}).get(request.request_id, ())
        return bisect_left(blocks, True, key=lambda block: block.ref_cnt <= 1)

    def _computed(self, request: Any) -> Found:
        """As `found`, by vLLM's own search: where blocks and hashes differ in size, or layers keep less than all."""
        blocks, tokens = self._manager.get_computed_blocks(request)[:2]
        first = blocks.blocks[self._group[0]] if tokens else ()
        return Found(int(tokens) // self.block_size, sum(block.ref_cnt > 0 for block in first))


def boundary(hashes: Sequence[bytes], most: int, guess: int, good: Callable[[bytes], bool]) -> int:
    """How many of the leading `hashes`, at most `most`, are `good`, if the good ones come first; `guess` is tried."""
    low, high = 0, most
    if guess <= most:
        if guess == 0 or good(hashes[guess - 1]):
            if guess == most or not good(hashes[guess]):
                return guess
            low = guess + 1
        else:
            high = guess - 1
    while low < high:
        middle = (low + high + 1) // 2
        if good(hashes[middle - 1]):
            low = middle
        else:
            high = middle - 1
    return low


def _lasts(cached: Sequence[Any] | None, taken: Collection[int]) -> bool:
    """Whether the block that vLLM finds is still there once blocks with the ids `taken` have been overwritten."""
    return cached is not None and cached[0].block_id not in taken


def _in_use(cached: Sequence[Any] | None) -> bool:
    """Whether some request holds the block that vLLM finds, the first of each of the groups asked for."""
    return cached is not None and cached[0].ref_cnt > 0
