"""KV blocks of requests: counted only, or, with prefix caching, each with its content.

`cache` is the engine's, given as an argument of its own, so that without one its branches are compiled away.
"""

from kvhorizon.compiled.compiler import inside
from kvhorizon.sim.engine.arrays import FREE
from kvhorizon.sim.engine.cache import (
    FOUND,
    LOOKED_UP,
    NEW_FOUND,
    NEW_LOOKED_UP,
    found_blocks,
    grow,
    leave,
    own_blocks,
    register,
    seat,
)


@inside
def blocks_for(tokens, block_size):  # type: ignore[no-untyped-def]
    """Blocks that hold so many tokens."""
    return (tokens + block_size - 1) // block_size


@inside
def take(engine, cache, n, more):  # type: ignore[no-untyped-def]
    """Request n gets `more` blocks; there must be so many."""
    if cache is not None:
        grow(cache, n, engine.columns.blocks[n], more)
    engine.counters[FREE] -= more
    engine.columns.blocks[n] += more


@inside
def fill(engine, cache, n, tokens):  # type: ignore[no-untyped-def]
    """After this step the KV of request n's first `tokens` tokens is present."""
    if cache is not None:
        register(cache, n, tokens // engine.limits.block_size)


@inside
def give_back(engine, cache, n):  # type: ignore[no-untyped-def]
    """Request n gives up all its blocks."""
    held = engine.columns.blocks[n]
    freed = held
    if cache is not None:
        freed = leave(cache, n, held)
    engine.counters[FREE] += freed
    engine.columns.blocks[n] = 0


@inside
def would_free(engine, cache, n):  # type: ignore[no-untyped-def]
    """Blocks that become free if running request n leaves."""
    held = engine.columns.blocks[n]
    if cache is None:
        return held
    return own_blocks(cache, n, held)


@inside
def find(engine, cache, n, tokens):  # type: ignore[no-untyped-def]
    """(blocks of request n's first `tokens` tokens in the cache, those of them that are free)."""
    if cache is None:
        return 0, 0
    return found_blocks(cache, n, tokens // engine.limits.block_size)


@inside
def join(engine, cache, n, found, idle, tokens):  # type: ignore[no-untyped-def]
    """Request n of `tokens` tokens joins the batch with its blocks from the cache."""
    if cache is not None:
        seat(cache, n, found)
        engine.counters[FREE] -= idle
        engine.columns.blocks[n] = found
        cache.marks[LOOKED_UP] += tokens
        cache.marks[FOUND] += found * engine.limits.block_size
        if engine.live.high_water[n] == 0:  # nothing of it was computed before
            cache.marks[NEW_LOOKED_UP] += tokens
            cache.marks[NEW_FOUND] += found * engine.limits.block_size
