"""The budget of reordering: how much of what requests compete for is granted to those that go before older ones.

Where they compete for memory, that is the memory in use: requests out of order hold a share of it at most. Where memory
has slack, requests wait for the engine's tokens or seats, of which short requests out of order take much while they
hold little; there an account is kept of the tokens let in, and requests out of order get a share of them at most
(decision 014).
"""

from __future__ import annotations

from typing import NamedTuple

from kvhorizon.compiled.compiler import compiled
from kvhorizon.solver.heuristic.footprint import own_tokens

# Places in `Scratch.ledger`: tokens admitted before older requests beyond their share; all tokens admitted; `caution`.
OWED, ADMITTED, CARE = range(3)
DEEP = 2.0  # times the memory in use that a queue must want before order within it is worth a request's wait
MOST_SAVED = 2048.0  # tokens that requests out of order may be ahead: a step's prompts


class Front(NamedTuple):
    """Places of the requests that may be next; -1: none."""

    best: int  # by the order's key
    oldest: int  # by arrival
    oldest_waits: bool  # it was tried and did not fit


class Memory(NamedTuple):
    """Tokens of KV."""

    granted: float  # held by requests that went before older ones
    used: float
    pool: float


@compiled
def overtaking_tokens(columns, running, num_running, block_size):  # type: ignore[no-untyped-def]
    """Tokens of memory of their own that running requests hold which were admitted before older ones."""
    tokens = 0
    for i in range(num_running):
        n = running[i]
        if columns.out_of_order[n]:
            tokens += max(columns.blocks[n] * block_size - columns.shared[n], 0)
    return tokens


@compiled
def has_memory_slack(columns, rule, oldest, used, pool):  # type: ignore[no-untyped-def]
    """Whether request `oldest` does not wait for memory: it would leave much of the pool unused [tokens]."""
    return used + own_tokens(columns, oldest) + rule.quota.slack_share * pool <= pool


@compiled
def may_overtake(columns, rule, n, granted, share, used, owed, memory_slack):  # type: ignore[no-untyped-def]
    """Whether request n may go before an older one: `granted` tokens of those in use are, and `owed` of those let
    in."""
    return granted + own_tokens(columns, n) <= share * used and (owed <= 0.0 or not memory_slack)


@compiled
def note_places(columns, scratch, num_waiting):  # type: ignore[no-untyped-def]
    """Note of each newcomer how many tokens will have been admitted when its turn comes in order of arrival; returns
    the tokens of memory that all waiting requests want."""
    queued = 0.0
    for i in range(num_waiting):
        n = scratch.waiting[i]
        if columns.turn[n] < 0.0:
            columns.turn[n] = scratch.ledger[ADMITTED] + queued
        queued += own_tokens(columns, n)
    return queued


@compiled
def is_overdue(columns, scratch, n, share, queued):  # type: ignore[no-untyped-def]
    """Whether a share of what is `queued`, or more, was admitted since it would have been request n's turn.

    Order of arrival would make a newcomer wait while `queued` tokens are admitted: so in that share of such a wait.
    Where nothing is `queued` beyond what is not counted (`DEEP`) it is order of arrival.
    """
    return max(scratch.ledger[ADMITTED] - columns.turn[n], 0.0) >= share * queued


@compiled
def whose_turn(columns, rule, scratch, front, overdue, memory):  # type: ignore[no-untyped-def]
    """Place of the next candidate, whether it would overtake, and whether memory has slack.

    That is the best place where it may go before the oldest (-1: no request's turn), else the oldest's; an `overdue`
    one is passed by none.
    """
    best, oldest = front.best, front.oldest
    if overdue:
        return oldest, False, False
    memory_slack = oldest >= 0 and has_memory_slack(columns, rule, scratch.waiting[oldest], memory.used, memory.pool)
    share = (
        max(rule.quota.overtake_share, rule.quota.backfill_share) if front.oldest_waits else rule.quota.overtake_share
    )
    other = best >= 0 and best != oldest
    owed = scratch.ledger[OWED]
    if other and may_overtake(
        columns, rule, scratch.waiting[best], memory.granted, share, memory.used, owed, memory_slack
    ):
        return best, True, memory_slack
    return oldest, False, memory_slack


@compiled
def owed_after(rule, context, overtakes, owed):  # type: ignore[no-untyped-def]
    """The account once a request of so many tokens was let in: requests out of order take, the others give their
    share's worth."""
    if overtakes:
        return owed + context
    return max(owed - rule.quota.overtake_flow / (1.0 - rule.quota.overtake_flow) * context, -MOST_SAVED)
