"""Prefix caching: which KV block holds which content, who shares it, and which free block is overwritten first.

After vLLM's block pool (vllm/v1/core/block_pool.py, release 0.32): a full block keeps its content when its last user
leaves, until it is taken for something else, least recently used first; blocks without content are taken before those.
A block that fills is found from the step that schedules its last token. Equal blocks computed side by side are both
kept; the one that filled first is found.

Contents are numbers: the same number means the same tokens after the same prefix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import inside

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

NONE = -1
# Places in `BlockCache.marks` (int64).
OLDEST, NEWEST, PLAIN, SLOTS, LOOKED_UP, FOUND, NEW_LOOKED_UP, NEW_FOUND, MARKS = range(9)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio: Fibonacci hashing (Knuth, vol. 3, 6.4)


class BlockCache(NamedTuple):
    """B blocks, N requests of which S run at most, H = a power of two >= 4·B."""

    start: Int64Array  # (N + 1,) where each request's contents begin in `contents`
    contents: Int64Array  # (sum,) content of each full block of each request, in order
    slot: Int32Array  # (N,) row in `table`, or NONE
    table: Int32Array  # (S, most blocks of a request) blocks of the running requests, in order
    registered: Int32Array  # (S,) leading blocks whose content is known to the cache
    free_slots: Int32Array  # (S,) stack
    content: Int64Array  # (B,) or NONE
    users: Int32Array  # (B,) running requests that hold it
    older: Int32Array  # (B,) links between free blocks with content, in order of use
    newer: Int32Array  # (B,)
    plain: Int32Array  # (B,) stack of free blocks without content
    twin: Int32Array  # (B,) the next block with equal content, in order of filling, or NONE
    keys: Int64Array  # (H,) contents, NONE where empty
    first: Int32Array  # (H,) the first block with that content
    marks: Int64Array  # (MARKS,)


def new_cache(start: Int64Array, contents: Int64Array, blocks: int, seats: int, most_blocks: int) -> BlockCache:
    """An empty cache of `blocks` blocks for `seats` running requests of at most `most_blocks` each."""
    size = 1 << (4 * blocks - 1).bit_length()
    marks = np.zeros(MARKS, np.int64)
    marks[OLDEST] = marks[NEWEST] = NONE
    marks[PLAIN], marks[SLOTS] = blocks, seats
    return BlockCache(
        start=start,
        contents=contents,
        slot=np.full(len(start) - 1, NONE, np.int32),
        table=np.zeros((seats, most_blocks), np.int32),
        registered=np.zeros(seats, np.int32),
        free_slots=np.arange(seats, dtype=np.int32),
        content=np.full(blocks, NONE, np.int64),
        users=np.zeros(blocks, np.int32),
        older=np.full(blocks, NONE, np.int32),
        newer=np.full(blocks, NONE, np.int32),
        plain=np.arange(blocks, dtype=np.int32)[::-1].copy(),
        twin=np.full(blocks, NONE, np.int32),
        keys=np.full(size, NONE, np.int64),
        first=np.zeros(size, np.int32),
        marks=marks,
    )


def clear(cache: BlockCache) -> None:
    """All content is gone; no request may hold a block."""
    cache.content[:] = cache.twin[:] = cache.keys[:] = NONE
    cache.plain[:] = np.arange(len(cache.plain), dtype=np.int32)[::-1]
    cache.marks[OLDEST] = cache.marks[NEWEST] = NONE
    cache.marks[PLAIN] = len(cache.plain)


@inside
def home(cache, content):  # type: ignore[no-untyped-def]
    """Where the search for a content begins."""
    mixed = (np.uint64(content) * GOLDEN) >> np.uint64(20)
    return np.int64(mixed & np.uint64(len(cache.keys) - 1))


@inside
def place_of(cache, content):  # type: ignore[no-untyped-def]
    """Where a content is, or the empty place where it would go."""
    at = home(cache, content)
    while cache.keys[at] != NONE and cache.keys[at] != content:
        at = (at + 1) & (len(cache.keys) - 1)
    return at


@inside
def insert(cache, content, block):  # type: ignore[no-untyped-def]
    """Block now holds content; an equal one that filled before goes on being found."""
    cache.content[block] = content
    cache.twin[block] = NONE
    at = place_of(cache, content)
    if cache.keys[at] == NONE:
        cache.keys[at] = content
        cache.first[at] = block
        return
    last = cache.first[at]
    while cache.twin[last] != NONE:
        last = cache.twin[last]
    cache.twin[last] = block


@inside
def close_gap(cache, gap):  # type: ignore[no-untyped-def]
    """Empty a place, moving back what was pushed past it (linear probing; Knuth, vol. 3, 6.4, algorithm R)."""
    mask = len(cache.keys) - 1
    at = gap
    while True:
        at = (at + 1) & mask
        if cache.keys[at] == NONE:
            break
        if ((at - home(cache, cache.keys[at])) & mask) >= ((at - gap) & mask):
            cache.keys[gap] = cache.keys[at]
            cache.first[gap] = cache.first[at]
            gap = at
    cache.keys[gap] = NONE


@inside
def forget(cache, block):  # type: ignore[no-untyped-def]
    """The block's content is overwritten."""
    at = place_of(cache, cache.content[block])
    after = cache.twin[block]
    if cache.first[at] == block:
        if after == NONE:
            close_gap(cache, at)
        else:
            cache.first[at] = after
    else:
        before = cache.first[at]
        while cache.twin[before] != block:
            before = cache.twin[before]
        cache.twin[before] = after
    cache.content[block] = NONE


@inside
def unlink(cache, block):  # type: ignore[no-untyped-def]
    """A free block with content is in use again, or overwritten."""
    marks = cache.marks
    before, after = cache.older[block], cache.newer[block]
    if before == NONE:
        marks[OLDEST] = after
    else:
        cache.newer[before] = after
    if after == NONE:
        marks[NEWEST] = before
    else:
        cache.older[after] = before


@inside
def link_newest(cache, block):  # type: ignore[no-untyped-def]
    """A block with content is free, and the last to be overwritten."""
    marks = cache.marks
    cache.older[block] = marks[NEWEST]
    cache.newer[block] = NONE
    if marks[NEWEST] == NONE:
        marks[OLDEST] = block
    else:
        cache.newer[marks[NEWEST]] = block
    marks[NEWEST] = block


@inside
def take_one(cache):  # type: ignore[no-untyped-def]
    """A free block to write to."""
    marks = cache.marks
    if marks[PLAIN] > 0:
        marks[PLAIN] -= 1
        block = cache.plain[marks[PLAIN]]
    else:
        block = marks[OLDEST]
        unlink(cache, block)
        forget(cache, block)
    cache.users[block] = 1
    return block


@inside
def found_blocks(cache, n, most):  # type: ignore[no-untyped-def]
    """(leading blocks of request n, at most `most`, that the cache holds; those of them that no request uses)."""
    found = 0
    idle = 0
    for i in range(most):
        at = place_of(cache, cache.contents[cache.start[n] + i])
        if cache.keys[at] == NONE:
            break
        found += 1
        if cache.users[cache.first[at]] == 0:
            idle += 1
    return found, idle


@inside
def seat(cache, n, found):  # type: ignore[no-untyped-def]
    """Request n joins the batch with its `found` leading blocks from the cache."""
    cache.marks[SLOTS] -= 1
    slot = cache.free_slots[cache.marks[SLOTS]]
    cache.slot[n] = slot
    cache.registered[slot] = found
    for i in range(found):
        block = cache.first[place_of(cache, cache.contents[cache.start[n] + i])]
        if cache.users[block] == 0:
            unlink(cache, block)
        cache.users[block] += 1
        cache.table[slot, i] = block


@inside
def grow(cache, n, held, more):  # type: ignore[no-untyped-def]
    """Request n, which holds `held` blocks, gets `more`."""
    slot = cache.slot[n]
    for i in range(held, held + more):
        cache.table[slot, i] = take_one(cache)


@inside
def register(cache, n, full):  # type: ignore[no-untyped-def]
    """The first `full` blocks of request n are full: others may find them."""
    slot = cache.slot[n]
    for i in range(cache.registered[slot], full):
        insert(cache, cache.contents[cache.start[n] + i], cache.table[slot, i])
    cache.registered[slot] = max(cache.registered[slot], full)


@inside
def leave(cache, n, held):  # type: ignore[no-untyped-def]
    """Request n gives up its blocks, the last first; returns how many became free."""
    slot = cache.slot[n]
    freed = 0
    for i in range(held - 1, -1, -1):
        block = cache.table[slot, i]
        cache.users[block] -= 1
        if cache.users[block] > 0:
            continue
        freed += 1
        if cache.content[block] == NONE:
            cache.plain[cache.marks[PLAIN]] = block
            cache.marks[PLAIN] += 1
        else:
            link_newest(cache, block)
    cache.free_slots[cache.marks[SLOTS]] = slot
    cache.marks[SLOTS] += 1
    cache.slot[n] = NONE
    return freed


@inside
def own_blocks(cache, n, held):  # type: ignore[no-untyped-def]
    """Blocks of running request n that no other holds."""
    slot = cache.slot[n]
    own = 0
    for i in range(held):
        if cache.users[cache.table[slot, i]] == 1:
            own += 1
    return own
