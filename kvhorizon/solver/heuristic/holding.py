"""Holding requests back for sessions that are about to return, so that their KV is not overwritten in the meantime.

Where more sessions are active than the pool has room for, each turn in order of arrival overwrites the history of
another, and all of them are computed again. So a request most of whose context would have to be computed waits while
the KV in use and the KV expected to be used again (`idle_sessions`) fill the pool; turns whose history is still cached
go ahead of it. It waits no longer once the engine would run too few requests, or once it is overdue (`out_of_order`).
"""

from __future__ import annotations

from kvhorizon.compiled.compiler import compiled
from kvhorizon.solver.heuristic.footprint import is_mostly_cached, own_tokens
from kvhorizon.solver.heuristic.order import TRIED, best_place
from kvhorizon.solver.heuristic.out_of_order import is_overdue


@compiled
def may_hold(columns, rule, running, num_running, waiting, num_waiting, room):  # type: ignore[no-untyped-def]
    """Whether the engine stays busy if requests are held back: with a share of the requests that the pool can hold."""
    if not rule.cached or room.returning_tokens <= 0.0 or num_running == 0:
        return False
    own = 0.0
    for i in range(num_running):
        own += own_tokens(columns, running[i])
    busy = num_running
    for i in range(num_waiting):
        if is_mostly_cached(columns, waiting[i]):
            busy += 1
    capacity = rule.holding.pool_share * room.total_blocks * room.block_size
    return busy * own >= rule.holding.busy_share * capacity * num_running


@compiled
def is_held(columns, rule, scratch, n, occupied, queued, room):  # type: ignore[no-untyped-def]
    """Whether request n is to wait for KV that is expected to be used again: `occupied` tokens of the pool are in use,
    and all that wait want `queued`."""
    if is_mostly_cached(columns, n) or columns.preemptions[n] > 0:
        return False
    capacity = rule.holding.pool_share * room.total_blocks * room.block_size
    if occupied + room.returning_tokens + own_tokens(columns, n) <= capacity:
        return False
    return not is_overdue(columns, scratch, n, rule.holding.overdue, queued)


@compiled
def best_cached(columns, scratch, num_waiting):  # type: ignore[no-untyped-def]
    """Place of the least key among requests most of whose context is cached, or -1; the others are out from now on."""
    best = best_place(scratch, num_waiting)
    while best >= 0 and not is_mostly_cached(columns, scratch.waiting[best]):
        scratch.keys[best] = TRIED
        best = best_place(scratch, num_waiting)
    return best
