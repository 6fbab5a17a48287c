"""What a request costs net of the prefix cache: the one place that says so, for rules, simulator, plans and live step.

Of a context of c tokens (prompt and output so far) the leading `shared` lie in blocks that other requests hold, and the
`idle` after those in free blocks that still keep their content. Both are multiples of the block size, and the last
token is always computed.

    memory it takes      c − shared           [tokens]; in blocks ⌈c / size⌉ − shared / size
    prefill it takes     c − shared − idle    [tokens], at least 1

Source: vLLM's `KVCacheManager.allocate_slots` (release 0.32): a cached block in use is referenced once more, a free one
is taken from the free list, and only what is not found is computed.
"""

from kvhorizon.compiled.compiler import compiled


@compiled
def own_tokens(columns, n):  # type: ignore[no-untyped-def]
    """Tokens of request n in blocks that no other request holds, whether they are there yet or not."""
    return columns.prompt[n] + columns.generated[n] - columns.shared[n]


@compiled
def prefill_tokens(columns, n):  # type: ignore[no-untyped-def]
    """Tokens that waiting request n would have to compute if it were admitted now."""
    return max(columns.prompt[n] + columns.generated[n] - columns.shared[n] - columns.idle[n], 1)


@compiled
def is_warm(columns, n):  # type: ignore[no-untyped-def]
    """Whether half or more of what waiting request n would take is cached in free blocks, and lost if it waits."""
    return columns.idle[n] > 0 and 2 * columns.idle[n] >= own_tokens(columns, n)


@compiled
def is_mostly_cached(columns, n):  # type: ignore[no-untyped-def]
    """Whether half or more of waiting request n's context is cached, in use or not."""
    return 2 * (columns.shared[n] + columns.idle[n]) >= columns.prompt[n] + columns.generated[n]


@compiled
def blocks_to_take(columns, n, block_size):  # type: ignore[no-untyped-def]
    """Free blocks that waiting request n would take if it were admitted now."""
    return (columns.prompt[n] + columns.generated[n] + block_size - 1) // block_size - columns.shared[n] // block_size


@compiled
def shared_in_use(columns, running, num_running, used_tokens, block_size):  # type: ignore[no-untyped-def]
    """Tokens of blocks that running requests share, each counted once: of `used_tokens` those that are no one's own.

    0 where none of them shares a block.
    """
    shares = False
    own = 0
    for i in range(num_running):
        n = running[i]
        shares = shares or columns.shared[n] > 0
        own += columns.blocks[n] * block_size - columns.shared[n]
    return max(used_tokens - own, 0.0) if shares else 0.0
