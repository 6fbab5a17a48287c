"""Lower bound and prices: projected subgradient ascent on the program's Lagrangian dual.

With prices λ_k of blocks (0 ≤ λ_k ≤ π_k, since overflow costs π_k), ν_k ≥ 0 of sequences, μ_a ≥ 0 of prefill tokens and
η ≥ 0 of present blocks,

    L = Σ_n min(c_n∅, min_a c_na + Σ_k λ_k·P_nak + ν_k·Q_nak + μ_a·prefill_na + [a = 0]·η·held_n)
        − λ·M − ν·N − μ·budget − η·present

is a lower bound of the program, whatever the prices (Fisher, Management Science 27, 1981). Polyak steps with momentum,
on residuals relative to capacity, so that rows of different units move alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvhorizon.solver.problem import Problem, Tables

FloatArray = NDArray[np.float64]
MOMENTUM = 0.5
STALLED = 3  # rounds without progress before the step shrinks
SHRINK = 0.6
FIRST_STEP = 0.3
PROGRESS = 1e-4  # relative


@dataclass(frozen=True, slots=True)
class Prices:
    """Dual prices in weighted seconds per unit, and when they hold."""

    blocks: FloatArray  # (K,)
    sequences: FloatArray  # (K,)
    prefill_token: FloatArray  # (A,)
    held_block: FloatArray  # (1,)
    bucket_steps: FloatArray  # (K + 1,)

    def moved(self, problem: Problem, elapsed_steps: float) -> Prices:
        """These prices for a problem that begins `elapsed_steps` later and may cut time differently.

        A bucket's price is the time integral of a price per step, so it is shared out by overlap.
        """
        edges = problem.bucket_steps + elapsed_steps
        points = problem.shape[1]
        same = len(self.prefill_token) == points
        return Prices(
            blocks=_shared_out(self.blocks, self.bucket_steps, edges),
            sequences=_shared_out(self.sequences, self.bucket_steps, edges),
            prefill_token=self.prefill_token if same else np.zeros(points),
            held_block=self.held_block,
            bucket_steps=problem.bucket_steps,
        )


def _shared_out(price: FloatArray, old_edges: FloatArray, new_edges: FloatArray) -> FloatArray:
    total = np.concatenate([[0.0], np.cumsum(price)])
    return np.diff(np.interp(new_edges, old_edges, total))


@dataclass(frozen=True, slots=True)
class Bound:
    """The best prices found and what they prove."""

    prices: Prices
    value: float  # weighted seconds
    reduced: FloatArray  # (N, A + 1) cost of each option at these prices; the last: never

    def order_by_margin(self) -> NDArray[np.int64]:
        """(N,) The requests that lose most by their second-best option first."""
        return np.argsort(-self.margins(), kind="stable")

    def margins(self) -> FloatArray:
        """(N,) How much dearer the second-best option is; inf where there is only one."""
        least, second = np.partition(self.reduced, 1, axis=1)[:, :2].T
        return np.asarray(second - least)


def no_prices(problem: Problem) -> Prices:
    """Prices of zero, of the problem's shape."""
    _, points, buckets = problem.shape
    return Prices(np.zeros(buckets), np.zeros(buckets), np.zeros(points), np.zeros(1), problem.bucket_steps)


@njit(cache=True)
def reduced_costs(tables, prices, out):  # type: ignore[no-untyped-def]
    """Fill `out` (N, A + 1); `prices` are (λ, ν, μ, η) in one array (2K + A + 1,)."""
    size, points, buckets = tables.blocks.shape
    crowded = False
    for k in range(buckets, 2 * buckets):
        crowded = crowded or prices[k] > 0.0
    for n in range(size):
        out[n, points] = tables.cost_never[n]
        for a in range(points):
            value = tables.cost[n, a]
            if value < np.inf:
                value += prices[2 * buckets + a] * tables.prefill_tokens[n, a]
                for k in range(tables.admission_bucket[a], buckets):
                    value += prices[k] * tables.blocks[n, a, k]
                if crowded:
                    for k in range(tables.admission_bucket[a], buckets):
                        value += prices[buckets + k] * tables.sequences[n, a, k]
                if a == 0:
                    value += prices[2 * buckets + points] * tables.held_blocks[n]
            out[n, a] = value


@njit(cache=True)
def residuals(tables, reduced, capacity, out):  # type: ignore[no-untyped-def]
    """Σ_n of the least reduced cost; fills `out` (2K + A + 1,) with use minus capacity, row by row."""
    size, points, buckets = tables.blocks.shape
    out[:] = -capacity
    total = 0.0
    for n in range(size):
        best = points
        for a in range(points):
            if reduced[n, a] < reduced[n, best]:
                best = a
        total += reduced[n, best]
        if best == points:
            continue
        for k in range(tables.admission_bucket[best], buckets):
            out[k] += tables.blocks[n, best, k]
            out[buckets + k] += tables.sequences[n, best, k]
        out[2 * buckets + best] += tables.prefill_tokens[n, best]
        if best == 0:
            out[2 * buckets + points] += tables.held_blocks[n]
    return total


@njit(cache=True)
def climb(tables, start, ceiling, capacity, upper, rounds, best_reduced):  # type: ignore[no-untyped-def]
    """Best prices and bound within `rounds` >= 1 evaluations, from `start`; `best_reduced` goes with them."""
    prices, best_prices, best = start.copy(), start.copy(), -np.inf
    reduced = np.empty_like(best_reduced)
    slope, velocity = np.empty(len(start)), np.zeros(len(start))
    share, stalled = FIRST_STEP, 0
    for _ in range(rounds):
        reduced_costs(tables, prices, reduced)
        # numba's dot would ask for scipy, which an engine's environment may lack
        value = residuals(tables, reduced, capacity, slope) - (prices * capacity).sum()
        if value > best:
            stalled = stalled + 1 if value < best + PROGRESS * abs(best) else 0
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
            slope[i] /= max(capacity[i], 1.0)
            if (prices[i] <= 0.0 and slope[i] < 0.0) or (prices[i] >= ceiling[i] and slope[i] > 0.0):
                slope[i] = 0.0
            velocity[i] = MOMENTUM * velocity[i] + slope[i]
            norm += slope[i] * slope[i]
        step = 0.5 * share * max(upper - value, 1e-3 * abs(upper)) / norm
        for i in range(len(prices)):
            prices[i] = min(max(0.0, prices[i] + step * velocity[i] / max(capacity[i], 1.0)), ceiling[i])
    return best_prices, best


def ascend(problem: Problem, start: Prices, upper: float, rounds: int) -> Bound:
    """Improve prices for `rounds` >= 1; `upper` is the cost of a known solution."""
    tables: Tables = problem.tables
    size, points, buckets = problem.shape
    capacity = np.concatenate(
        [tables.capacity_blocks, tables.max_sequences, tables.prefill_budget_tokens, tables.present_blocks]
    )
    ceiling = np.concatenate([tables.overflow_price, np.full(buckets + points + 1, np.inf)])
    first = np.concatenate([start.blocks, start.sequences, start.prefill_token, start.held_block])
    reduced = np.empty((size, points + 1))
    best, value = climb(tables, np.minimum(first, ceiling), ceiling, capacity, upper, rounds, reduced)
    prices = Prices(
        best[:buckets], best[buckets : 2 * buckets], best[2 * buckets : -1], best[-1:], problem.bucket_steps
    )
    return Bound(prices, float(value), reduced)
