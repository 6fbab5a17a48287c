"""Inserting requests one by one, each at an option that still fits: the greedy and the repair of the program."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvhorizon.solver.problem import NEVER, Problem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TOLERANCE = 1e-9


class Used(NamedTuple):
    """What the choices so far take."""

    blocks: FloatArray  # (K,)
    sequences: FloatArray  # (K,)
    prefill_tokens: FloatArray  # (A,)
    held_blocks: FloatArray  # (1,)


@njit(cache=True)
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


@njit(cache=True)
def overflow_growth(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Σ_k π_k·(growth of v_k) if request n takes option a [weighted seconds]."""
    total = 0.0
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        over = used.blocks[k] + tables.blocks[n, a, k] - tables.capacity_blocks[k]
        if over > 0.0:
            total += tables.overflow_price[k] * min(over, tables.blocks[n, a, k])
    return total


@njit(cache=True)
def take(tables, used, n, a):  # type: ignore[no-untyped-def]
    """Count option a of request n as chosen."""
    for k in range(tables.admission_bucket[a], len(used.blocks)):
        used.blocks[k] += tables.blocks[n, a, k]
        used.sequences[k] += tables.sequences[n, a, k]
    used.prefill_tokens[a] += tables.prefill_tokens[n, a]
    if a == 0:
        used.held_blocks[0] += tables.held_blocks[n]


@njit(cache=True)
def nothing_used(tables):  # type: ignore[no-untyped-def]
    """An empty pool."""
    _, points, buckets = tables.blocks.shape
    return Used(np.zeros(buckets), np.zeros(buckets), np.zeros(points), np.zeros(1))


@njit(cache=True)
def insert_earliest(tables, num_running, order):  # type: ignore[no-untyped-def]
    """Keep what runs; then each request in `order` at its earliest option without overflow."""
    used = nothing_used(tables)
    choice = np.full(len(tables.cost), NEVER)
    for n in range(num_running):
        choice[n] = 0
        take(tables, used, n, 0)
    for n in order:
        for a in range(len(tables.admission_bucket)):
            if tables.cost[n, a] >= tables.cost_never[n] or not fits(tables, used, n, a):
                continue
            if overflow_growth(tables, used, n, a) <= 0.0:
                choice[n] = a
                take(tables, used, n, a)
                break
    return choice


@njit(cache=True)
def insert_cheapest(tables, value, order):  # type: ignore[no-untyped-def]
    """Each request in `order` at the option of least `value` (N, A + 1; last column: never) plus overflow.

    `value` is the cost itself, or its cost at prices, which sees ahead to the requests still to come.
    """
    used = nothing_used(tables)
    choice = np.full(len(tables.cost), NEVER)
    points = len(tables.admission_bucket)
    for n in order:
        least = value[n, points]
        for a in range(points):
            if value[n, a] >= least or not fits(tables, used, n, a):
                continue
            total = value[n, a] + overflow_growth(tables, used, n, a)
            if total < least:
                least = total
                choice[n] = a
        if choice[n] != NEVER:
            take(tables, used, n, choice[n])
    return choice


def cost_of(problem: Problem, choice: IntArray) -> float:
    """Weighted seconds of delay of a choice (N,), overflow included."""
    tables = problem.tables
    held = np.flatnonzero(choice != NEVER)
    used = tables.blocks[held, choice[held]].sum(axis=0)
    overflow = np.maximum(used - tables.capacity_blocks, 0.0)
    delay = tables.cost[held, choice[held]].sum() + tables.cost_never[choice == NEVER].sum()
    return float(delay + overflow @ tables.overflow_price)


def by_key(problem: Problem) -> IntArray:
    """Waiting requests (W,) in the greedy's order."""
    waiting = np.arange(problem.num_running, len(problem.key))
    return waiting[np.argsort(problem.key[waiting], kind="stable")]


def greedy_choices(problem: Problem, rule_order: IntArray | None = None) -> list[IntArray]:
    """Choices (N,) of the greedy by key, and of the rule's admissions first if given as snapshot indices in order."""
    key_order = by_key(problem)
    orders = [key_order]
    if rule_order is not None and len(rule_order):
        ruled = place_of(problem, rule_order)
        orders.append(np.concatenate([ruled, key_order[~np.isin(key_order, ruled)]]))
    return [insert_earliest(problem.tables, problem.num_running, order) for order in orders]


def place_of(problem: Problem, rows: IntArray) -> IntArray:
    """Places in the problem of those snapshot indices that it considers, in their order."""
    order = np.argsort(problem.rows, kind="stable")
    at = np.minimum(np.searchsorted(problem.rows, rows, sorter=order), max(len(order) - 1, 0))
    place = order[at] if len(order) else np.zeros(len(rows), np.int64)
    return place[problem.rows[place] == rows] if len(order) else place[:0]
