"""The order in which waiting requests are tried, as keys in the scratch: the least first."""

import numpy as np

from kvhorizon.compiled.compiler import compiled
from kvhorizon.solver.heuristic.footprint import is_warm, own_tokens, prefill_tokens
from kvhorizon.solver.heuristic.params import aging, kv_time

TRIED = np.inf
PLANNED_FIRST, LATE_FIRST = 0.0, -1.0  # below these lie the keys of planned requests, and of late ones
LATE_SCALE = 1e12
WARM_FIRST = 1e-9  # of the key of a request whose prompt is cached


@compiled
def is_late(columns, rule, room, n):  # type: ignore[no-untyped-def]
    """Whether waiting request n goes by the late lane; a budget of reordering has none."""
    if rule.budgeted or room.late_after_s == np.inf:
        return False
    return room.now_s - columns.arrival_s[n] > room.late_after_s


@compiled
def work_of(columns, rule, room, n):  # type: ignore[no-untyped-def]
    """What waiting request n takes of the engine [token·steps]: its KV·time and, with a prefix cache, its prefill.

    While a prefill lengthens a step by a share of it, all KV in use waits: it counts for that share of a step.
    """
    work = kv_time(own_tokens(columns, n), columns.remaining[n])
    if rule.cached:
        held = float(room.used_blocks * room.block_size)
        work += held * prefill_tokens(columns, n) * room.prefill_s_per_token / room.step_s
    return work


@compiled
def rank_waiting(columns, rule, room, scratch, num_waiting):  # type: ignore[no-untyped-def]
    """Fill the order keys; returns the mean R of the queue."""
    total_remaining = 0.0
    total_work = 0.0
    for i in range(num_waiting):
        n = scratch.waiting[i]
        remaining = columns.remaining[n]
        work = work_of(columns, rule, room, n) / columns.weight[n]
        total_remaining += remaining
        total_work += work
        if rule.budgeted:
            scratch.keys[i] = work * WARM_FIRST if rule.cached and is_warm(columns, n) else work
        else:
            scratch.keys[i] = work / aging(room.now_s - columns.arrival_s[n], remaining + columns.generated[n], rule)
    mean_work = total_work / max(num_waiting, 1)
    for i in range(num_waiting):
        n = scratch.waiting[i]
        if is_late(columns, rule, room, n):
            scratch.keys[i] = LATE_FIRST - LATE_SCALE * (room.now_s - columns.arrival_s[n])
        elif scratch.rank[n] > 0 and not (rule.cached and rule.budgeted):
            scratch.keys[i] = PLANNED_FIRST - 1.0 / scratch.rank[n]
        elif rule.budgeted and scratch.keys[i] > mean_work:
            scratch.keys[i] = TRIED  # too large to overtake; still admitted when it is the oldest
    return total_remaining / max(num_waiting, 1)


@compiled
def best_place(scratch, num_waiting):  # type: ignore[no-untyped-def]
    """Place of the least key, or -1."""
    best = -1
    least = TRIED
    for i in range(num_waiting):
        if scratch.keys[i] < least:
            least = scratch.keys[i]
            best = i
    return best


@compiled
def oldest_place(columns, scratch, num_waiting):  # type: ignore[no-untyped-def]
    """Place of the oldest waiting request that is not chosen yet, or -1."""
    best = -1
    earliest = np.inf
    for i in range(num_waiting):
        n = scratch.waiting[i]
        if n >= 0 and columns.arrival_s[n] < earliest:
            earliest = columns.arrival_s[n]
            best = i
    return best
