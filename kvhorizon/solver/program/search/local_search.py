"""Local search: take requests out one or two at a time and put them back where they cost least now.

Two at a time, the first gets the room that the second leaves: that is what single moves cannot find in a full pool
(shift, swap, and evict for admission, when the second runs).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting_unlocked, unlocked
from kvhorizon.solver.program.model import NEVER, Problem
from kvhorizon.solver.program.search.construct import fits, nothing_used, overflow_growth, take

IntArray = NDArray[np.int64]
GAIN = 1e-7  # weighted seconds; smaller ones may be rounding
NOWHERE = -2  # no option is cheap enough


@unlocked
def give_back(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Undo `take`; returns the overflow cost that it saves."""
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        used.blocks[k] -= tables.blocks[n, a, k]
        used.sequences[k] -= tables.sequences[n, a, k]
    used.prefill_tokens[a] -= tables.prefill_tokens[n, a]
    if a == 0:
        used.held_blocks[0] -= tables.held_blocks[n]
    return overflow_growth(tables, used, n, a)


@unlocked
def remove(tables, used, choice, n):  # type: ignore[no-untyped-def]
    """Take request n out; returns what its option cost, overflow included."""
    if choice[n] == NEVER:
        return tables.cost_never[n]
    return tables.cost[n, choice[n]] + give_back(tables, used, n, choice[n])


@unlocked
def put(tables, used, choice, n, a):  # type: ignore[no-untyped-def]
    """Let request n, taken out before, have option a."""
    choice[n] = a
    if a != NEVER:
        take(tables, used, n, a)


@unlocked
def cheapest(tables, used, n, limit):  # type: ignore[no-untyped-def]
    """(option, cost with overflow) of least cost below `limit` that fits; NOWHERE where there is none."""
    best, least = NOWHERE, limit
    if tables.cost_never[n] < least:
        best, least = NEVER, tables.cost_never[n]
    for a in range(len(tables.admission_bucket)):
        if tables.cost[n, a] >= least or not fits(tables, used, n, a):
            continue
        total = tables.cost[n, a] + overflow_growth(tables, used, n, a)
        if total < least:
            best, least = a, total
    return best, least


@unlocked
def move_singles(tables, used, choice, order):  # type: ignore[no-untyped-def]
    """Reinsert each request of `order` once, where it costs less."""
    for n in order:
        before, old = choice[n], remove(tables, used, choice, n)
        a, _ = cheapest(tables, used, n, old - GAIN)
        put(tables, used, choice, n, before if a == NOWHERE else a)


@unlocked
def least_cost(tables, n):  # type: ignore[no-untyped-def]
    """What request n costs at least, wherever it goes."""
    least = tables.cost_never[n]
    for a in range(len(tables.admission_bucket)):
        least = min(least, tables.cost[n, a])
    return least


@unlocked
def move_pairs(tables, used, choice, seconds, near):  # type: ignore[no-untyped-def]
    """For each of `seconds` and each of `near`, reinsert the latter without the former, then it."""
    for second in seconds:
        floor = least_cost(tables, second)
        for first in near:
            if first == second or choice[second] == NEVER or choice[first] == 0:
                continue
            first_before, second_before = choice[first], choice[second]
            old = remove(tables, used, choice, second)
            old += remove(tables, used, choice, first)
            a, new = cheapest(tables, used, first, old - floor - GAIN)
            if a != NOWHERE:
                put(tables, used, choice, first, a)
                b, _ = cheapest(tables, used, second, old - new - GAIN)
                if b != NOWHERE:
                    put(tables, used, choice, second, b)
                    continue
                if a != NEVER:
                    give_back(tables, used, first, a)
            put(tables, used, choice, first, first_before)
            put(tables, used, choice, second, second_before)


@counting_unlocked
def used_by(tables, choice):  # type: ignore[no-untyped-def]
    """What a choice (N,) takes."""
    used = nothing_used(tables)
    for n in range(len(choice)):
        if choice[n] != NEVER:
            take(tables, used, n, choice[n])
    return used


class Moves:
    """Moves that improve a feasible `choice` (N,) in place."""

    def __init__(self, problem: Problem, choice: IntArray) -> None:
        self._tables, self._choice = problem.tables, choice
        self._used = used_by(problem.tables, choice)

    def singles(self, order: IntArray) -> None:
        """Move each of `order` (n,) alone."""
        move_singles(self._tables, self._used, self._choice, order)

    def pairs(self, seconds: IntArray, near: IntArray) -> None:
        """Move each of `seconds` (n,) with each of `near` (m,)."""
        move_pairs(self._tables, self._used, self._choice, seconds, near)
