"""Lower bound and prices: projected subgradient ascent on the program's Lagrangian dual.

With prices λ_k of blocks (0 ≤ λ_k ≤ π_k, since overflow costs π_k), ν_k ≥ 0 of sequences and μ_a ≥ 0 of prefill tokens,

    L(λ, ν, μ) = Σ_n min(c_n∅, min_a c_na + Σ_k λ_k P_nak + ν_k Q_nak + μ_a prefill_na) − λ·M − ν·N_max − μ·budget

is a lower bound of the program for any such prices (Fisher, Management Science 27, 1981). Prices are kept from tick to
tick, since the engine's state changes little between two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvhorizon.solver.problem import NEVER, Problem

FloatArray = NDArray[np.float64]
MOMENTUM = 0.5
STALLED = 3  # iterations without progress before the step shrinks
SHRINK = 0.6


@dataclass(frozen=True, slots=True)
class Prices:
    """Dual prices in weighted seconds per unit."""

    blocks: FloatArray  # (K,)
    sequences: FloatArray  # (K,)
    prefill: FloatArray  # (A,) per token


@dataclass(frozen=True, slots=True)
class Bound:
    """The best prices found and what they prove."""

    prices: Prices
    value: float  # weighted seconds
    reduced: FloatArray  # (N, A + 1) cost of each option at these prices, the last: never


def no_prices(problem: Problem) -> Prices:
    """Prices of zero, of the problem's shape."""
    _, points, buckets = problem.shape
    return Prices(np.zeros(buckets), np.zeros(buckets), np.zeros(points))


@njit(cache=True)
def reduced_costs(prices, cost, never, blocks, sequences, prefill, out):  # type: ignore[no-untyped-def]
    """Cost of each option at the prices, (N, A + 1)."""
    size, points, buckets = blocks.shape
    for n in range(size):
        for a in range(points):
            value = cost[n, a] + prices[2 * buckets + a] * prefill[n, a]
            for k in range(a, buckets):
                value += prices[k] * blocks[n, a, k] + prices[buckets + k] * sequences[n, a, k]
            out[n, a] = value
        out[n, points] = never[n]


@njit(cache=True)
def residuals(reduced, blocks, sequences, prefill, capacity, out):  # type: ignore[no-untyped-def]
    """Σ of the least reduced costs; fills `out` with use minus capacity, relative to capacity, per priced row."""
    size, points, buckets = blocks.shape
    out[:] = -capacity
    total = 0.0
    for n in range(size):
        best = np.argmin(reduced[n])
        total += reduced[n, best]
        if best == points:
            continue
        for k in range(best, buckets):
            out[k] += blocks[n, best, k]
            out[buckets + k] += sequences[n, best, k]
        out[2 * buckets + best] += prefill[n, best]
    for i in range(len(out)):
        out[i] /= max(capacity[i], 1.0)
    return total


@njit(cache=True)
def climb(start, ceiling, capacity, cost, never, blocks, sequences, prefill, upper, iterations, reduced, best_reduced):  # type: ignore[no-untyped-def]
    """Polyak steps towards `upper` with momentum; returns (best prices, best value). `best_reduced` goes with them."""
    prices = start.copy()
    best_prices = start.copy()
    best = -np.inf
    share = 0.3
    stalled = 0
    velocity = np.zeros(len(start))
    slope = np.zeros(len(start))
    for _ in range(iterations):
        reduced_costs(prices, cost, never, blocks, sequences, prefill, reduced)
        value = residuals(reduced, blocks, sequences, prefill, capacity, slope) - np.dot(prices, capacity)
        if value > best:
            stalled = stalled + 1 if value < best + 1e-4 * abs(best) else 0
            best = value
            best_prices[:] = prices
            best_reduced[:] = reduced
        else:
            stalled += 1
        if stalled >= STALLED:
            share *= SHRINK
            stalled = 0
            prices[:] = best_prices
            velocity[:] = 0.0
        norm = 1e-12
        for i in range(len(slope)):
            if (prices[i] <= 0.0 and slope[i] < 0.0) or (prices[i] >= ceiling[i] and slope[i] > 0.0):
                slope[i] = 0.0
            velocity[i] = MOMENTUM * velocity[i] + slope[i]
            norm += slope[i] * slope[i]
        step = 0.5 * share * max(upper - value, 1e-3 * abs(upper)) / norm
        for i in range(len(prices)):
            prices[i] = min(max(0.0, prices[i] + step * velocity[i] / max(capacity[i], 1.0)), ceiling[i])
    return best_prices, best


def ascend(problem: Problem, start: Prices, upper: float, iterations: int) -> Bound:
    """Improve prices for `iterations` >= 1 rounds; `upper` is the cost of a known solution."""
    size, points, buckets = problem.shape
    ceiling = np.concatenate([problem.overflow_price, np.full(buckets + points, np.inf)])
    capacity = np.concatenate(
        [problem.capacity_blocks, np.full(buckets, problem.max_sequences), problem.prefill_budget_tokens]
    )
    first = np.minimum(np.concatenate([start.blocks, start.sequences, start.prefill]), ceiling)
    best_reduced = np.empty((size, points + 1))
    best, value = climb(
        first,
        ceiling,
        capacity,
        problem.cost,
        problem.cost_never,
        problem.blocks,
        problem.sequences,
        problem.prefill_tokens,
        upper,
        iterations,
        np.empty((size, points + 1)),
        best_reduced,
    )
    prices = Prices(best[:buckets], best[buckets : 2 * buckets], best[2 * buckets :])
    return Bound(prices, float(value), best_reduced)


def option_of(choice: int, points: int) -> int:
    """Column of a choice in `Bound.reduced`."""
    return points if choice == NEVER else choice
