"""Inserting requests one by one, each at its cheapest option that still fits: the planner's primal side.

`used` arrays carry what the choices so far take: blocks and sequences per bucket (K,), prefill tokens per point (A,).
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvhorizon.solver.problem import NEVER, Problem

IntArray = NDArray[np.int64]


@njit(cache=True)
def overflow_cost(blocks, extra, capacity, price):  # type: ignore[no-untyped-def]
    """Σ_k π_k·(growth of the overflow) if `extra` (K,) blocks come to `blocks` (K,)."""
    total = 0.0
    for k in range(len(blocks)):
        over = blocks[k] + extra[k] - capacity[k]
        if over > 0.0:
            total += price[k] * min(over, extra[k])
    return total


@njit(cache=True)
def fits(n, a, sequences, max_sequences, used_sequences, prefill, budget, used_prefill):  # type: ignore[no-untyped-def]
    """Whether option a of request n respects the hard constraints."""
    if used_prefill[a] + prefill[n, a] > budget[a] + 1e-9:
        return False
    return np.all(used_sequences + sequences[n, a] <= max_sequences + 1e-9)


@njit(cache=True)
def insert_in_order(order, price_free, cost, never, blocks, sequences, prefill, capacity, limit, budget, price, choice):  # type: ignore[no-untyped-def]
    """Fill `choice` (N,) request by request; a running request's keeping is always within the hard constraints.

    With `price_free` each takes the earliest option without overflow, as a greedy would; else the cheapest.
    """
    points, buckets = blocks.shape[1], blocks.shape[2]
    used = np.zeros(buckets)
    used_sequences = np.zeros(buckets)
    used_prefill = np.zeros(points)
    for n in order:
        best, least = NEVER, never[n]
        for a in range(points):
            if cost[n, a] >= least or not fits(n, a, sequences, limit, used_sequences, prefill, budget, used_prefill):
                continue
            over = overflow_cost(used, blocks[n, a], capacity, price)
            if price_free and over > 0.0:
                continue
            if cost[n, a] + over < least:
                best, least = a, cost[n, a] + over
                if price_free:
                    break
        choice[n] = best
        if best != NEVER:
            used += blocks[n, best]
            used_sequences += sequences[n, best]
            used_prefill[best] += prefill[n, best]


def insert(problem: Problem, order: IntArray, price_free: bool = False) -> IntArray:
    """Choices (N,) from inserting in `order` (N,), every request once."""
    choice = np.full(len(order), NEVER, np.int64)
    insert_in_order(
        order,
        price_free,
        problem.cost,
        problem.cost_never,
        problem.blocks,
        problem.sequences,
        problem.prefill_tokens,
        problem.capacity_blocks,
        problem.max_sequences,
        problem.prefill_budget_tokens,
        problem.overflow_price,
        choice,
    )
    return choice


def running_first(problem: Problem, waiting_order: IntArray) -> IntArray:
    """An order (N,): running requests as they are, then the waiting ones as given."""
    return np.concatenate([np.arange(problem.num_running), waiting_order]).astype(np.int64)
