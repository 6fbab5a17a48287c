"""The core program: HiGHS decides the requests nearest to break-even, everything else stays as the incumbent has it.

The linear relaxation of the whole program is nearly integral, so that few requests are really in question: those whose
two best options cost about the same at the dual prices, and those whose incumbent is not their cheapest option (the
core concept: Balas & Zemel, Operations Research 28, 1980).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.dual import Bound, option_of
from kvhorizon.solver.problem import NEVER, Problem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
OPTIONS = 3  # per core request, by reduced cost, besides the incumbent's


@dataclass(frozen=True, slots=True)
class Limits:
    """How much HiGHS may do; both kinds of limit at once are allowed."""

    nodes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Core:
    """What is left to decide."""

    requests: IntArray  # (C,) rows of the problem
    columns: list[tuple[int, int]]  # (position in requests, option), NEVER included
    capacity_blocks: FloatArray  # (K,) left by the fixed requests
    sequences: FloatArray  # (K,) left
    prefill: FloatArray  # (A,) left


def pick(problem: Problem, bound: Bound, choice: IntArray, size: int) -> Core:
    """The `size` requests nearest to break-even and what the others leave them."""
    points = problem.shape[1]
    ordered = np.sort(bound.reduced, axis=1)
    margin = ordered[:, 1] - ordered[:, 0]
    taken = np.array([option_of(a, points) for a in choice])
    regret = bound.reduced[np.arange(len(choice)), taken] - ordered[:, 0]
    chosen = np.sort(np.argsort(margin - 10.0 * regret, kind="stable")[:size])
    fixed = np.setdiff1d(np.flatnonzero(choice != NEVER), chosen)
    options = choice[fixed]
    columns = []
    for position, n in enumerate(chosen):
        best = set(np.argsort(bound.reduced[n], kind="stable")[:OPTIONS].tolist()) | {int(taken[n]), points}
        columns += [(position, NEVER if a == points else a) for a in sorted(best) if np.isfinite(bound.reduced[n, a])]
    prefill = np.bincount(options, weights=problem.prefill_tokens[fixed, options], minlength=points)
    return Core(
        requests=chosen,
        columns=columns,
        capacity_blocks=problem.capacity_blocks - problem.blocks[fixed, options].sum(axis=0),
        sequences=problem.max_sequences - problem.sequences[fixed, options].sum(axis=0),
        prefill=problem.prefill_budget_tokens - prefill,
    )


def _matrix(problem: Problem, core: Core) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(rows × columns matrix, lower, upper, cost): one row per request, bucket blocks, bucket sequences, point."""
    size, (_, points, buckets) = len(core.requests), problem.shape
    options = len(core.columns)
    matrix = np.zeros((size + 2 * buckets + points, options + buckets))
    cost = np.concatenate([np.zeros(options), problem.overflow_price])
    for column, (position, a) in enumerate(core.columns):
        n = core.requests[position]
        matrix[position, column] = 1.0
        cost[column] = problem.cost_never[n] if a == NEVER else problem.cost[n, a]
        if a != NEVER:
            matrix[size : size + buckets, column] = problem.blocks[n, a]
            matrix[size + buckets : size + 2 * buckets, column] = problem.sequences[n, a]
            matrix[size + 2 * buckets + a, column] = problem.prefill_tokens[n, a]
    matrix[size + np.arange(buckets), options + np.arange(buckets)] = -1.0
    matrix[np.abs(matrix) <= 1e-9] = 0.0  # HiGHS refuses smaller coefficients
    upper = np.concatenate([np.ones(size), core.capacity_blocks, core.sequences, core.prefill])
    lower = np.concatenate([np.ones(size), np.full(2 * buckets + points, -np.inf)])
    return matrix, lower, upper, cost


def solve(problem: Problem, bound: Bound, choice: IntArray, size: int, limits: Limits) -> IntArray:
    """A choice (N,) no worse on the core than the incumbent; or the incumbent, if highspy is missing or fails."""
    try:
        import highspy
    except ImportError:
        return choice
    core = pick(problem, bound, choice, size)
    matrix, lower, upper, cost = _matrix(problem, core)
    options = len(core.columns)
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("parallel", "off"),
        ("random_seed", 0),
        ("mip_rel_gap", 1e-4),
    ):
        solver.setOptionValue(name, value)
    if limits.nodes is not None:
        solver.setOptionValue("mip_max_nodes", limits.nodes)
    if limits.seconds is not None:
        solver.setOptionValue("time_limit", limits.seconds)
    solver.passModel(_model(highspy, matrix, lower, upper, cost, options))  # type: ignore[no-untyped-call]
    solver.run()
    if solver.getInfo().primal_solution_status != 2:  # no feasible point found within the limits
        return choice
    values = np.array(solver.getSolution().col_value[:options])
    result = choice.copy()
    for position, n in enumerate(core.requests):
        mine = [(values[column], a) for column, (at, a) in enumerate(core.columns) if at == position]
        result[n] = max(mine)[1]
    return result


def _model(highspy, matrix, lower, upper, cost, options):  # type: ignore[no-untyped-def]
    """The arrays as HiGHS wants them, by columns."""
    rows, columns = matrix.shape
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = rows, columns
    model.col_cost_ = cost
    model.col_lower_ = np.zeros(columns)
    model.col_upper_ = np.concatenate([np.ones(options), np.full(columns - options, highspy.kHighsInf)])
    model.row_lower_ = np.maximum(lower, -highspy.kHighsInf)
    model.row_upper_ = upper
    at_column, at_row = np.nonzero(matrix.T)
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = np.concatenate([[0], np.cumsum(np.bincount(at_column, minlength=columns))])
    model.a_matrix_.index_ = at_row
    model.a_matrix_.value_ = matrix.T[at_column, at_row]
    model.integrality_ = [highspy.HighsVarType.kInteger] * options + [highspy.HighsVarType.kContinuous] * (
        columns - options
    )
    return model
