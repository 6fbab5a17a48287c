"""Local search: take requests out one or two at a time and put them back where they cost least now.

Two at a time, the first gets the room that the second leaves: that is what single moves cannot find in a full pool.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvhorizon.solver.insert import fits, nothing_used, overflow_growth, take
from kvhorizon.solver.problem import NEVER, Problem

IntArray = NDArray[np.int64]
GAIN = 1e-7  # weighted seconds; smaller ones may be rounding


@njit(cache=True)
def give_back(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Undo `take`; returns the overflow cost that it saves."""
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        used.blocks[k] -= tables.blocks[n, a, k]
        used.sequences[k] -= tables.sequences[n, a, k]
    used.prefill_tokens[a] -= tables.prefill_tokens[n, a]
    if a == 0:
        used.held_blocks[0] -= tables.held_blocks[n]
    return overflow_growth(tables, used, n, a)


@njit(cache=True)
def remove(tables, used, choice, n):  # type: ignore[no-untyped-def]
    """Take request n out; returns what its option cost, overflow included."""
    if choice[n] == NEVER:
        return tables.cost_never[n]
    return tables.cost[n, choice[n]] + give_back(tables, used, n, choice[n])


@njit(cache=True)
def put(tables, used, choice, n, a):  # type: ignore[no-untyped-def]
    """Let request n, taken out before, have option a."""
    choice[n] = a
    if a != NEVER:
        take(tables, used, n, a)


@njit(cache=True)
def cheapest(tables, used, n):  # type: ignore[no-untyped-def]
    """(option, cost with overflow) of least cost that fits."""
    best, least = NEVER, tables.cost_never[n]
    for a in range(len(tables.admission_bucket)):
        if tables.cost[n, a] >= least or not fits(tables, used, n, a):
            continue
        total = tables.cost[n, a] + overflow_growth(tables, used, n, a)
        if total < least:
            best, least = a, total
    return best, least


@njit(cache=True)
def move_singles(tables, used, choice, order):  # type: ignore[no-untyped-def]
    """Reinsert each request of `order` once; returns the gain."""
    gain = 0.0
    for n in order:
        before, old = choice[n], remove(tables, used, choice, n)
        a, new = cheapest(tables, used, n)
        put(tables, used, choice, n, a if new < old - GAIN else before)
        gain += max(old - new, 0.0)
    return gain


@njit(cache=True)
def move_pairs(tables, used, choice, order):  # type: ignore[no-untyped-def]
    """For each two requests of `order`, reinsert the first without the second, then the second; returns the gain."""
    gain = 0.0
    for first in order:
        for second in order:
            if first == second or choice[first] == 0 or choice[second] == NEVER:
                continue
            before = choice[first], choice[second]
            old = remove(tables, used, choice, second)
            old += remove(tables, used, choice, first)
            a, new = cheapest(tables, used, first)
            put(tables, used, choice, first, a)
            b, rest = cheapest(tables, used, second)
            if new + rest < old - GAIN:
                put(tables, used, choice, second, b)
                gain += old - new - rest
                continue
            if a != NEVER:
                give_back(tables, used, first, a)
            put(tables, used, choice, first, before[0])
            put(tables, used, choice, second, before[1])
    return gain


@njit(cache=True)
def search(tables, choice, order, near, sweeps):  # type: ignore[no-untyped-def]
    """Improve `choice` in place by sweeps of single moves over `order` and pair moves over `near`."""
    used = nothing_used(tables)
    for n in range(len(choice)):
        if choice[n] != NEVER:
            take(tables, used, n, choice[n])
    for _ in range(sweeps):
        gain = move_singles(tables, used, choice, order)
        gain += move_pairs(tables, used, choice, near)
        if gain <= GAIN:
            break


def local_search(problem: Problem, choice: IntArray, order: IntArray, pairs: int, sweeps: int) -> IntArray:
    """A choice (N,) no worse than the feasible `choice`; `order` (N,) puts the requests worth pairing first."""
    result = choice.copy()
    search(problem.tables, result, order, order[:pairs], sweeps)
    return result
