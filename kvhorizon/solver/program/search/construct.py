"""Inserting requests one by one, each at an option that still fits: the greedy and the repair of the program."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting_unlocked, unlocked
from kvhorizon.solver.program.model import NEVER, NO_REQUEST, Problem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TOLERANCE = 1e-9


class Used(NamedTuple):
    """What the choices so far take."""

    blocks: FloatArray  # (K,)
    sequences: FloatArray  # (K,)
    prefill_tokens: FloatArray  # (A,)
    held_blocks: FloatArray  # (1,)


@unlocked
def fits(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Whether option a of request n exists and keeps the hard constraints."""
    if not np.isfinite(tables.cost[n, a]):
        return False
    if used.prefill_tokens[a] + tables.prefill_tokens[n, a] > tables.prefill_budget_tokens[a] + TOLERANCE:
        return False
    if a == 0 and used.held_blocks[0] + tables.held_blocks[n] > tables.present_blocks[0] + TOLERANCE:
        return False
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        if used.sequences[k] + tables.sequences[n, a, k] > tables.max_sequences[k] + TOLERANCE:
            return False
    return True


@unlocked
def overflows(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Whether option a of request n would take some bucket beyond its capacity."""
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        if used.blocks[k] + tables.blocks[n, a, k] > tables.capacity_blocks[k] and tables.blocks[n, a, k] > 0.0:
            return True
    return False


@unlocked
def overflow_growth(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Σ_k π_k·(growth of v_k) if request n takes option a [weighted seconds]."""
    total = 0.0
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        over = used.blocks[k] + tables.blocks[n, a, k] - tables.capacity_blocks[k]
        if over > 0.0:
            total += tables.overflow_price[k] * min(over, tables.blocks[n, a, k])
    return total


@unlocked
def take(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Count option a of request n as chosen."""
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        used.blocks[k] += tables.blocks[n, a, k]
        used.sequences[k] += tables.sequences[n, a, k]
    used.prefill_tokens[a] += tables.prefill_tokens[n, a]
    if a == 0:
        used.held_blocks[0] += tables.held_blocks[n]


@counting_unlocked
def nothing_used(tables):  # type: ignore[no-untyped-def]
    """An empty pool."""
    _, points, buckets = tables.blocks.shape
    return Used(np.zeros(buckets), np.zeros(buckets), np.zeros(points), np.zeros(1))


@unlocked
def take_earliest(tables, used, n):  # type: ignore[no-untyped-def]
    """Take the earliest option of request n that fits without overflow; returns it, or NEVER."""
    for a in range(len(tables.admission_bucket)):
        if tables.cost[n, a] >= tables.cost_never[n] or overflows(tables, used, n, a):
            continue
        if fits(tables, used, n, a):
            take(tables, used, n, a)
            return a
    return NEVER


@counting_unlocked
def insert_earliest(tables, num_running, order):  # type: ignore[no-untyped-def]
    """Keep what runs; then each request in `order` at its earliest option without overflow."""
    used = nothing_used(tables)
    choice = np.full(len(tables.cost), NEVER)
    for n in range(num_running):
        if np.isfinite(tables.cost[n, 0]):
            choice[n] = 0
            take(tables, used, n, 0)
    for n in order:
        choice[n] = take_earliest(tables, used, n)
    return choice


@counting_unlocked
def insert_cheapest(tables, value, order):  # type: ignore[no-untyped-def]
    """Each request in `order` at the option of least `value` (A + 1, N; last row: never) plus overflow.

    `value` is the cost itself, or its cost at prices, which sees ahead to the requests still to come.
    """
    used = nothing_used(tables)
    choice = np.full(len(tables.cost), NEVER)
    points = len(tables.admission_bucket)
    for n in order:
        first = 0  # the option of least value is tried first: mostly it fits, and nothing can beat it
        for a in range(1, points):
            if value[a, n] < value[first, n]:
                first = a
        least = value[points, n]
        for i in range(points):
            a = first if i == 0 else (i - 1 if i <= first else i)
            if value[a, n] >= least or not fits(tables, used, n, a):
                continue
            total = value[a, n] + overflow_growth(tables, used, n, a)
            if total < least:
                least = total
                choice[n] = a
        if choice[n] != NEVER:
            take(tables, used, n, choice[n])
    return choice


@counting_unlocked
def insert_planned(tables, planned, order, others):  # type: ignore[no-untyped-def]
    """Each request in `order` at its `planned` (N,) option or, where that does not fit any more, at the next that does.

    Then each of `others` at its earliest option without overflow.
    """
    used = nothing_used(tables)
    choice = np.full(len(tables.cost), NEVER)
    points = len(tables.admission_bucket)
    for n in order:
        for a in range(planned[n], points):
            if tables.cost[n, a] < tables.cost_never[n] and fits(tables, used, n, a):
                choice[n] = a
                take(tables, used, n, a)
                break
    for n in others:
        choice[n] = take_earliest(tables, used, n)
    return choice


@counting_unlocked
def feasible(tables, choice, tolerance):  # type: ignore[no-untyped-def]
    """Whether a choice (N,) of existing options keeps the hard constraints to a `tolerance`."""
    used = nothing_used(tables)
    for n in range(len(choice)):
        a = choice[n]
        if not np.isfinite(tables.cost_never[n] if a == NEVER else tables.cost[n, a]):
            return False
        if a != NEVER:
            take(tables, used, n, a)
    return (
        (used.sequences <= tables.max_sequences + tolerance).all()
        and (used.prefill_tokens <= tables.prefill_budget_tokens + tolerance).all()
        and used.held_blocks[0] <= tables.present_blocks[0] + tolerance
    )


@counting_unlocked
def total_cost(tables, choice):  # type: ignore[no-untyped-def]
    """Weighted seconds of delay of a choice (N,), overflow included."""
    used = np.zeros(tables.blocks.shape[2])
    total = 0.0
    for n in range(len(choice)):
        a = choice[n]
        if a == NEVER:
            total += tables.cost_never[n]
            continue
        total += tables.cost[n, a]
        for k in range(tables.admission_bucket[a], len(used)):
            used[k] += tables.blocks[n, a, k]
    for k in range(len(used)):
        total += tables.overflow_price[k] * max(used[k] - tables.capacity_blocks[k], 0.0)
    return total


def cost_of(problem: Problem, choice: IntArray) -> float:
    """Weighted seconds of delay of a choice (N,), overflow included."""
    return float(total_cost(problem.tables, choice))


def by_key(problem: Problem) -> IntArray:
    """Waiting requests (W,) in the greedy's order."""
    waiting = problem.num_running + np.flatnonzero(problem.rows[problem.num_running :] != NO_REQUEST)
    return waiting[np.argsort(problem.key[waiting], kind="stable")]


def greedy_choices(problem: Problem, key_order: IntArray, rule_order: IntArray | None = None) -> list[IntArray]:
    """Choices (N,) of the greedy by key, and of the rule's admissions first if given as snapshot indices in order."""
    orders = [key_order]
    if rule_order is not None and len(rule_order):
        ruled = place_of(problem, rule_order)
        others = np.ones(len(problem.rows), bool)
        others[ruled] = False
        orders.append(np.concatenate([ruled, key_order[others[key_order]]]))
    return [insert_earliest(problem.tables, problem.num_running, order) for order in orders]


def place_of(problem: Problem, rows: IntArray) -> IntArray:
    """Places in the problem of those snapshot indices that it considers, in their order."""
    size = max(int(problem.rows.max(initial=NO_REQUEST)), int(rows.max(initial=NO_REQUEST))) + 1
    place = np.full(size + 1, NO_REQUEST)  # one more, for empty rows
    place[problem.rows] = np.arange(len(problem.rows))
    place[-1] = NO_REQUEST
    found: IntArray = place[rows]
    return np.asarray(found[found != NO_REQUEST])
