"""The budget of reordering: how much of what requests compete for is lent to those that go before older ones.

Where they compete for memory, that is the memory in use: overtakers hold a share of it at most. Where memory is plenty,
requests wait for the engine's tokens or seats, of which short overtakers take much while they hold little; there an
account is kept of the tokens let in, and overtakers get a share of them at most (decision 014).
"""

from __future__ import annotations

from kvhorizon.models.compiled import compiled

MOST_SAVED = 2048.0  # tokens that overtakers may be ahead: a step's prompts


@compiled
def overtaking_tokens(columns, running, num_running, block_size):  # type: ignore[no-untyped-def]
    """Tokens of room that running overtakers hold."""
    blocks = 0
    for i in range(num_running):
        if columns.overtaker[running[i]]:
            blocks += columns.blocks[running[i]]
    return blocks * block_size


@compiled
def context_of(columns, n):  # type: ignore[no-untyped-def]
    """Tokens that waiting request n must prefill."""
    return columns.prompt[n] + columns.generated[n]


@compiled
def is_plenty(columns, rule, oldest, used, pool):  # type: ignore[no-untyped-def]
    """Whether request `oldest` does not wait for memory: it would leave much of the pool unused [tokens]."""
    return used + context_of(columns, oldest) + rule.plenty_share * pool <= pool


@compiled
def may_overtake(columns, rule, n, lent, share, used, owed, plenty):  # type: ignore[no-untyped-def]
    """Whether request n may go before an older one: `lent` tokens of those in use are, and `owed` of those let in."""
    return lent + context_of(columns, n) <= share * used and (owed <= 0.0 or not plenty)


@compiled
def whose_turn(columns, rule, desk, best, oldest, oldest_waits, lent, used, pool):  # type: ignore[no-untyped-def]
    """Place of the next candidate, whether it would overtake, and whether memory is plenty.

    That is the `best` place where it may go before the `oldest` (-1: nobody's turn), else the oldest's.
    """
    plenty = oldest >= 0 and is_plenty(columns, rule, desk.waiting[oldest], used, pool)
    share = max(rule.overtake_share, rule.backfill_share) if oldest_waits else rule.overtake_share
    other = best >= 0 and best != oldest
    if other and may_overtake(columns, rule, desk.waiting[best], lent, share, used, desk.owed[0], plenty):
        return best, True, plenty
    return oldest, False, plenty


@compiled
def owed_after(rule, context, overtakes, owed):  # type: ignore[no-untyped-def]
    """The account once a request of so many tokens was let in: overtakers take, the others give their share's worth."""
    if overtakes:
        return owed + context
    return max(owed - rule.overtake_flow / (1.0 - rule.overtake_flow) * context, -MOST_SAVED)
