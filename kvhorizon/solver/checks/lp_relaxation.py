"""The linear relaxation, solved exactly: HiGHS on the few columns that matter, proven by prices on all of them.

A restricted program of the options cheapest at the present prices gives new prices; at those, the Lagrangian of the
whole program is a lower bound of its relaxation, and the restricted optimum an upper one. Options that are cheap at the
new prices join until the two meet (column generation: Desrosiers & Lübbecke, A Primer in Column Generation, 2005).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.highs import new_solver
from kvhorizon.solver.program.model import Tables

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
CLOSED = 1e-7  # relative difference at which the bounds have met
ROUNDS = 60
FORBIDDEN = 100.0  # times the dearest option, for the use of one request beyond a hard limit
NEAR = 0.02  # options within this share of the mean absolute cost of the cheapest one enter at the start


class Rows(NamedTuple):
    """The coupling rows of the program: uses of each option, limits, prices of exceeding them."""

    uses: FloatArray  # (N, A, 2K + A + 1)
    limit: FloatArray  # (2K + A + 1,)
    ceiling: FloatArray  # (2K + A + 1,) inf for hard rows


class Relaxed(NamedTuple):
    """Value of the relaxation, from below, and prices (2K + A + 1,) that prove it."""

    bound: float
    above: float  # value of the last restricted program; equals `bound` but for rounding
    prices: FloatArray


def rows_of(tables: Tables) -> Rows:
    """Blocks, sequences, prefill tokens per point, blocks held now."""
    size, points, buckets = tables.blocks.shape
    uses = np.zeros((size, points, 2 * buckets + points + 1))
    uses[:, :, :buckets] = tables.blocks
    uses[:, :, buckets : 2 * buckets] = tables.sequences
    at = np.arange(points)
    uses[:, at, 2 * buckets + at] = tables.prefill_tokens
    uses[:, 0, -1] = tables.held_blocks
    limit = np.concatenate(
        [tables.capacity_blocks, tables.max_sequences, tables.prefill_budget_tokens, tables.present_blocks]
    )
    ceiling = np.concatenate([tables.overflow_price, np.full(buckets + points + 1, np.inf)])
    return Rows(uses, limit, ceiling)


def relax(tables: Tables, start: FloatArray) -> Relaxed:
    """The relaxation's value, from prices (2K + A + 1,) near it."""
    rows = rows_of(tables)
    cost = np.column_stack([tables.cost, tables.cost_never])  # (N, A + 1)
    prices, best, proof, above = np.minimum(start, rows.ceiling), -np.inf, start, np.inf
    chosen = np.zeros(cost.shape, bool)
    near = NEAR * float(np.abs(cost[np.isfinite(cost)]).mean())
    for _ in range(ROUNDS):
        reduced = cost.copy()
        reduced[:, :-1] += rows.uses @ prices
        least = reduced.min(axis=1)
        value = float(least.sum() - prices @ rows.limit)
        if value > best:
            best, proof = value, prices
        if np.isfinite(above) and above - best <= CLOSED * abs(above):
            break
        chosen |= np.isfinite(reduced) & (reduced <= least[:, None] + near)
        near = 1e-9
        above, prices = _restricted(rows, cost, chosen)
    return Relaxed(best, above, proof)


def _restricted(rows: Rows, cost: FloatArray, chosen: BoolArray) -> tuple[float, FloatArray]:
    """Value and prices of the program that has the `chosen` (N, A + 1) options only."""
    points = cost.shape[1] - 1
    single = chosen.sum(axis=1) == 1
    alone, at = np.nonzero(chosen & single[:, None])
    held = at < points
    limit = rows.limit - rows.uses[alone[held], at[held]].sum(axis=0)
    n, a = np.nonzero(chosen & ~single[:, None])
    uses = np.zeros((len(n), len(limit)))
    uses[a < points] = rows.uses[n[a < points], a[a < points]]
    value, prices = _solve(np.unique(n, return_inverse=True)[1], cost[n, a], uses, limit, rows.ceiling)
    return value + float(cost[alone, at].sum()), prices


def _solve(
    group: NDArray[np.int64], cost: FloatArray, uses: FloatArray, limit: FloatArray, ceiling: FloatArray
) -> tuple[float, FloatArray]:
    """min Σ cost·x + Σ ceiling·v, one option per group, uses·x − v ≤ limit.

    Where the ceiling is infinite v costs so much that it goes once the options needed have joined.
    """
    import highspy

    solver = new_solver(presolve="off")
    groups, columns = int(group.max(initial=-1)) + 1, len(cost)
    scale = np.maximum(np.abs(uses).max(axis=0, initial=0.0), 1.0)  # rows in like units
    matrix = np.zeros((columns + len(limit), groups + len(limit)))
    matrix[np.arange(columns), group] = 1.0
    matrix[:columns, groups:] = uses / scale
    matrix[columns + np.arange(len(limit)), groups + np.arange(len(limit))] = -1.0
    dear = FORBIDDEN * np.abs(cost).max(initial=1.0)
    price = np.where(np.isfinite(ceiling), ceiling * scale, dear)
    matrix[np.abs(matrix) <= 1e-9] = 0.0
    column, row = np.nonzero(matrix)
    starts = np.searchsorted(column, np.arange(len(matrix) + 1)).astype(np.int32)
    free = np.full(len(matrix), highspy.kHighsInf)
    solver.passModel(
        len(matrix), matrix.shape[1], len(row),
        int(highspy.MatrixFormat.kColwise), int(highspy.ObjSense.kMinimize), 0.0,
        np.concatenate([cost, price]), np.zeros(len(matrix)), free,
        np.concatenate([np.ones(groups), np.full(len(limit), -highspy.kHighsInf)]),
        np.concatenate([np.ones(groups), limit / scale]),
        starts, row.astype(np.int32), matrix[column, row], np.zeros(len(matrix), np.int32),
    )  # fmt: skip
    solver.run()
    prices = np.clip(-np.array(solver.getSolution().row_dual)[groups:] / scale, 0.0, ceiling)
    return float(solver.getInfo().objective_function_value), prices
