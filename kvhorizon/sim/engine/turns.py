"""Turns of sessions in the simulator: which request continues which, and the sessions that are between two turns.

What has finished and come is taken in when our rule looks at the queue, at the times at which it happened.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import inside
from kvhorizon.models.forecast.returns import FIRST_TURN, LATER_TURN
from kvhorizon.models.performance.measured_steps import StepTimes, no_steps, prefill_price, see_step
from kvhorizon.sim.engine.arrays import ARRIVED, DONE, NOW
from kvhorizon.sim.engine.prefix import boundary
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.solver.heuristic.idle_sessions import (
    IdleSessions,
    expected_tokens,
    is_due,
    new_idle_sessions,
    turn_came,
    turn_ended,
)

Int32Array = NDArray[np.int32]
NO_TURN = -1
FINISHED, CAME = range(2)  # places in `Turns.seen`


class Turns(NamedTuple):
    """Of one engine and trace of N requests."""

    before: Int32Array  # (N,) the request whose context this one continues, or NO_TURN
    after: Int32Array  # (N,) the request that continues this one's
    idle: IdleSessions
    seen: NDArray[np.int64]  # (2,) requests taken in that have finished, and that have come
    steps: StepTimes  # of which the price of a prefill is learned


def turns_of(trace: Trace) -> Turns:
    """By the trace's sessions, else by prefix hashes: a longer prompt that contains all whole hashes of another."""
    before = np.full(len(trace), NO_TURN, np.int32)
    last: dict[int, int] = {}
    if trace.prefix_hashes is not None:
        for n, hashes in enumerate(trace.prefix_hashes):
            mine = hashes.tolist()
            known = next((one for one in reversed(mine[:-1]) if one in last), None)
            if known is not None:
                before[n] = last.pop(known)
            if mine:
                last[mine[-1]] = n
    elif trace.session is not None:
        for n, session in enumerate(trace.session.tolist()):
            if session >= 0:
                before[n] = last.get(session, NO_TURN)
                last[session] = n
    after = np.full(len(trace), NO_TURN, np.int32)
    later = np.flatnonzero(before != NO_TURN)
    after[before[later]] = later
    return Turns(before, after, new_idle_sessions(), np.zeros(2, np.int64), no_steps())


@inside
def full_blocks(engine, n):  # type: ignore[no-untyped-def]
    """Full blocks of request n's context."""
    return (engine.columns.prompt[n] + engine.columns.generated[n]) // engine.limits.block_size


@inside
def take_in(engine, turns):  # type: ignore[no-untyped-def]
    """Note the turns that have ended and come since the last time."""
    columns, live, size = engine.columns, engine.live, engine.limits.block_size
    for i in range(turns.seen[FINISHED], engine.counters[DONE]):
        n = engine.lists.finished[i]
        own = full_blocks(engine, n) * size - columns.shared[n]
        late = turns.after[n] != NO_TURN and columns.arrival_s[turns.after[n]] <= live.finish_s[n]
        if own > 0 and not late:
            kind = FIRST_TURN if turns.before[n] == NO_TURN else LATER_TURN
            turn_ended(turns.idle, n, kind, live.finish_s[n], float(own))
    turns.seen[FINISHED] = engine.counters[DONE]
    for n in range(turns.seen[CAME], engine.counters[ARRIVED]):
        if turns.before[n] != NO_TURN:
            turn_came(turns.idle, turns.before[n], columns.arrival_s[n])
    turns.seen[CAME] = engine.counters[ARRIVED]


@inside
def see_what_is_cached(engine, idle):  # type: ignore[no-untyped-def]
    """Bring the tokens of all sessions that are away up to date."""
    cache, size = engine.cache, engine.limits.block_size
    for i in range(idle.size[0]):
        n = idle.key[i]
        shared = engine.columns.shared[n]
        most = min(full_blocks(engine, n), cache.start[n + 1] - cache.start[n])
        found = boundary(cache, n, most, 0, (int(idle.tokens[i]) + shared) // size)
        idle.tokens[i] = max(found * size - shared, 0)


@inside
def note_step(turns, step_s, prefill_tokens):  # type: ignore[no-untyped-def]
    """A step of so many prefill tokens took so long."""
    if turns is not None:
        see_step(turns.steps, step_s, prefill_tokens)


@inside
def learned_price(turns, prior_s):  # type: ignore[no-untyped-def]
    """Seconds per token of prefill, learned where there are turns; else what is believed."""
    if turns is None:
        return prior_s
    return prefill_price(turns.steps, prior_s)


@inside
def returning_tokens(engine, turns, prefill_s_per_token):  # type: ignore[no-untyped-def]
    """KV of sessions between two turns that is expected to be used again [tokens]; 0 where there are no sessions."""
    if turns is None:
        return 0.0
    now_s = engine.clock[NOW]
    take_in(engine, turns)
    if is_due(turns.idle, now_s):
        see_what_is_cached(engine, turns.idle)
    capacity = engine.limits.total_blocks * engine.limits.block_size
    return expected_tokens(turns.idle, now_s, capacity * prefill_s_per_token)
