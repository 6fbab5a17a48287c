"""Lower bound and prices: projected subgradient ascent on the program's Lagrangian dual.

With prices λ_k of blocks (0 ≤ λ_k ≤ π_k, since overflow costs π_k), ν_k ≥ 0 of sequences, μ_a ≥ 0 of prefill tokens and
η ≥ 0 of present blocks,

    L = Σ_n min(c_n∅, min_a c_na + Σ_k λ_k·P_nak + ν_k·Q_nak + μ_a·prefill_na + [a = 0]·η·held_n)
        − λ·M − ν·N − μ·budget − η·present

is a lower bound of the program, whatever the prices (Fisher, Management Science 27, 1981). Polyak steps with momentum,
on residuals relative to the row's scale, so that rows of different units move alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting_unlocked
from kvhorizon.solver.program.model import Problem, Tables
from kvhorizon.solver.program.prices import Prices

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MOMENTUM = 0.5
STALLED = 3  # rounds without progress before the step shrinks
SHRINK = 0.6
FIRST_STEP = 0.3
PROGRESS = 1e-4  # relative
BEST, SHARE, STALLS = 0, 1, 2  # places in an ascent's state


@dataclass(frozen=True, slots=True)
class Bound:
    """The best prices found and what they prove."""

    prices: Prices
    value: float  # weighted seconds
    by_option: FloatArray  # (A + 1, N) cost of each option at these prices; the last: never
    least: FloatArray  # (N,) that of the cheapest
    margins: FloatArray  # (N,) how much dearer the second-best option is; inf where there is only one

    @property
    def reduced(self) -> FloatArray:
        """(N, A + 1) Costs at the prices by request."""
        return self.by_option.T


@counting_unlocked
def reduced_costs(tables, turned, prices, out):  # type: ignore[no-untyped-def]
    """Fill `out` (A + 1, N); `prices` are (λ, ν, μ, η) in one array (2K + A + 1,).

    Sums run over requests side by side, each in a fixed order, so that no machine adds differently from another.
    """
    size, points, buckets = tables.blocks.shape
    out[points] = tables.cost_never
    for a in range(points):
        row = out[a]
        price = prices[2 * buckets + a]
        for n in range(size):
            row[n] = tables.cost[n, a] + price * tables.prefill_tokens[n, a]
        if a == 0:
            price = prices[2 * buckets + points]
            for n in range(size):
                row[n] += price * tables.held_blocks[n]
        for k in range(tables.admission_bucket[a], buckets):
            price = prices[k]
            if price > 0.0:
                uses = turned.blocks[a, k]
                for n in range(size):
                    row[n] += price * uses[n]
            price = prices[buckets + k]
            if price > 0.0:
                uses = turned.sequences[a, k]
                for n in range(size):
                    row[n] += price * uses[n]


@counting_unlocked
def two_least(by_option, best, least, second):  # type: ignore[no-untyped-def]
    """Fill the cheapest option, its cost and of the second-cheapest, (N,) each; of equals never, or the first."""
    options, size = by_option.shape
    best[:], least[:], second[:] = options - 1, by_option[options - 1], np.inf
    for a in range(options - 1):
        row = by_option[a]
        for n in range(size):
            better = row[n] < least[n]
            second[n] = least[n] if better else min(second[n], row[n])
            least[n] = row[n] if better else least[n]
            best[n] = a if better else best[n]


@counting_unlocked
def use(tables, n, a, sign, out):  # type: ignore[no-untyped-def]
    """Add `sign` times what option a of request n uses to `out` (2K + A + 1,)."""
    points, buckets = tables.blocks.shape[1:]
    if a == points:
        return
    for k in range(tables.admission_bucket[a], buckets):
        out[k] += sign * tables.blocks[n, a, k]
        out[buckets + k] += sign * tables.sequences[n, a, k]
    out[2 * buckets + a] += sign * tables.prefill_tokens[n, a]
    if a == 0:
        out[2 * buckets + points] += sign * tables.held_blocks[n]


@counting_unlocked
def climb(tables, turned, ceiling, limit, scale, upper, rounds, ascent):  # type: ignore[no-untyped-def]
    """`rounds` evaluations and steps of `ascent` (`Ascent.parts`)."""
    prices, best_prices, velocity, slope, used, state, picked, by_option, best, least, second = ascent
    for _ in range(rounds):
        reduced_costs(tables, turned, prices, by_option)
        two_least(by_option, best, least, second)
        value = 0.0
        for n in range(len(best)):
            value += least[n]
            if best[n] != picked[n]:  # few change from round to round
                use(tables, n, picked[n], -1.0, used)
                use(tables, n, best[n], 1.0, used)
                picked[n] = best[n]
        value -= (prices * limit).sum()
        if value > state[BEST]:
            state[STALLS] = state[STALLS] + 1 if value < state[BEST] + PROGRESS * abs(state[BEST]) else 0
            state[BEST] = value
            best_prices[:] = prices
        else:
            state[STALLS] += 1
        if state[STALLS] >= STALLED:
            state[SHARE] *= SHRINK
            state[STALLS] = 0
            prices[:] = best_prices
            velocity[:] = 0.0
        norm = 1e-12
        for i in range(len(slope)):
            slope[i] = (used[i] - limit[i]) / scale[i]
            if (prices[i] <= 0.0 and slope[i] < 0.0) or (prices[i] >= ceiling[i] and slope[i] > 0.0):
                slope[i] = 0.0
            velocity[i] = MOMENTUM * velocity[i] + slope[i]
            norm += slope[i] * slope[i]
        step = 0.5 * state[SHARE] * max(upper - value, 1e-3 * abs(upper)) / norm
        for i in range(len(prices)):
            prices[i] = min(max(0.0, prices[i] + step * velocity[i] / scale[i]), ceiling[i])


def scale_of(problem: Problem) -> FloatArray:
    """(2K + A + 1,) Root of the sum of squared uses of each row: how strongly a price bends the dual."""
    tables, size = problem.tables, problem.shape[0]
    squares = np.concatenate(
        [
            root_square_sums(problem.turned.blocks, size, tables.admission_bucket),
            root_square_sums(problem.turned.sequences, size, tables.admission_bucket),
            np.sqrt((tables.prefill_tokens**2).sum(axis=0)),
            [np.sqrt((tables.held_blocks**2).sum())],
        ]
    )
    return np.asarray(np.maximum(squares, 1e-3))


@counting_unlocked
def root_square_sums(uses, size, bucket):  # type: ignore[no-untyped-def]
    """(K,) Root of Σ_n Σ_a uses² of `uses` (A, K, >= `size`), 0 for k < k_a = `bucket`[a]."""
    points, buckets, _ = uses.shape
    out, squares = np.zeros(buckets), np.zeros(size)
    for k in range(buckets):
        squares[:] = 0.0
        for a in range(points):
            if bucket[a] > k:
                break
            row = uses[a, k]
            for n in range(size):
                squares[n] += row[n] * row[n]
        for n in range(size):
            out[k] += squares[n]
        out[k] = np.sqrt(out[k])
    return out


class Parts(NamedTuple):
    """Of an ascent over M = 2K + A + 1 rows and N requests with A + 1 options, as the compiled rounds change it."""

    prices: FloatArray  # (M,)
    best_prices: FloatArray  # (M,) of the best bound so far
    velocity: FloatArray  # (M,)
    slope: FloatArray  # (M,)
    used: FloatArray  # (M,) by the options picked
    state: FloatArray  # (3,) best bound, share of a step, rounds without progress
    picked: IntArray  # (N,) options in the last round
    by_option: FloatArray  # (A + 1, N) reduced costs
    best: IntArray  # (N,) options of least reduced cost
    least: FloatArray  # (N,)
    second: FloatArray  # (N,)


class Ascent:
    """An ascent under way: it may be continued, and asked for what it has proven."""

    def __init__(
        self, problem: Problem, start: Prices, first_step: float = FIRST_STEP, scale: FloatArray | None = None
    ) -> None:
        """`scale` is that of a like problem, as `scale_of` has it."""
        tables: Tables = problem.tables
        size, points, buckets = problem.shape
        self._problem = problem
        self._limit = np.concatenate(
            [tables.capacity_blocks, tables.max_sequences, tables.prefill_budget_tokens, tables.present_blocks]
        )
        self.scale = scale_of(problem) if scale is None or len(scale) != len(self._limit) else scale
        self._ceiling = np.concatenate([tables.overflow_price, np.full(buckets + points + 1, np.inf)])
        prices = np.minimum(start.rows, self._ceiling)
        count = len(prices)
        picked, best = np.full(size, points), np.full(size, points)
        self.parts = Parts(
            prices, prices.copy(), np.zeros(count), np.zeros(count), np.zeros(count),
            np.array([-np.inf, first_step, 0.0]),
            picked, np.empty((points + 1, size)), best, np.empty(size), np.empty(size),
        )  # fmt: skip

    @property
    def value(self) -> float:
        """The bound so far [weighted seconds]."""
        return float(self.parts.state[BEST])

    def run(self, rounds: int, upper: float) -> None:
        """`rounds` >= 1 more; `upper` is the cost of a known solution."""
        problem = self._problem
        climb(problem.tables, problem.turned, self._ceiling, self._limit, self.scale, upper, rounds, self.parts)

    def bound(self) -> Bound:
        """The best so far."""
        _, points, buckets = self._problem.shape
        best = self.parts.best_prices.copy()
        by_option = np.empty_like(self.parts.by_option)
        reduced_costs(self._problem.tables, self._problem.turned, best, by_option)
        size = by_option.shape[1]
        least, second = np.empty(size), np.empty(size)
        two_least(by_option, np.empty(size, np.int64), least, second)
        prices = Prices(
            best[:buckets],
            best[buckets : 2 * buckets],
            best[2 * buckets : 2 * buckets + points],
            best[-1:],
        )
        return Bound(prices, self.value, by_option, least, second - least)


def ascend(problem: Problem, start: Prices, upper: float, rounds: int) -> Bound:
    """Improve prices for `rounds` >= 1; `upper` is the cost of a known solution."""
    ascent = Ascent(problem, start)
    ascent.run(rounds, upper)
    return ascent.bound()
