"""The core program: HiGHS decides the requests nearest to break-even, everything else stays as the incumbent has it.

The program's linear relaxation is nearly integral, so few requests are really in question: those whose two best options
cost about the same at the dual prices, and those whose incumbent option is not their cheapest one (the core concept:
Balas & Zemel, Operations Research 28, 1980). Without the package highspy the incumbent is the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.highs import new_solver
from kvhorizon.solver.program.model import NEVER, Problem
from kvhorizon.solver.program.search.dual import Bound

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
OPTIONS = 3  # per core request, the cheapest at the prices; besides the incumbent's, and never
REGRET = 10.0  # how much sooner a request in the wrong option is taken up than one merely near break-even
SHARE = 0.8  # of the time left that HiGHS is told to take, since it overruns
TINY = 1e-9  # HiGHS refuses coefficients below it
SIMPLEX_ITERATIONS = 20_000  # far beyond what a core needs; keeps work bounded where nodes do not


class Limits(NamedTuple):
    """How much HiGHS may do: always so many nodes, and so long where the clock counts."""

    nodes: int
    left_s: Callable[[], float | None]  # seconds left now; None where only work counts


@dataclass(frozen=True, slots=True)
class Open:
    """The columns that are left to decide, and what the fixed requests leave them."""

    request: IntArray  # (C,) row of the problem
    position: IntArray  # (C,) place of that request among the core's, ascending
    option: IntArray  # (C,) A stands for never
    capacity_blocks: FloatArray  # (K,)
    max_sequences: FloatArray  # (K,)
    prefill_budget_tokens: FloatArray  # (A,)
    present_blocks: float


@dataclass(frozen=True, slots=True)
class Program:
    """Rows lower ≤ matrix·x ≤ upper; the first `integers` columns are 0 or 1, the others overflow >= 0."""

    matrix: FloatArray  # (rows, columns)
    lower: FloatArray
    upper: FloatArray
    cost: FloatArray
    integers: int


def available() -> bool:
    """Whether HiGHS is installed."""
    try:
        import highspy  # noqa: F401
    except ImportError:
        return False
    return True


class Core:
    """HiGHS on a thread of its own: it overruns its time limit, so an answer that comes late is left behind."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[FloatArray | None] | None = None

    def improve(self, problem: Problem, bound: Bound, choice: IntArray, size: int, limits: Limits) -> IntArray | None:
        """A choice (N,) whose core of at most `size` requests HiGHS decided; None where it found none in time.

        The caller compares: within limits the answer may be worse than the incumbent `choice`.
        """
        if self._running is not None and not self._running.done():
            return None
        core = pick(problem, bound, choice, size)
        if not len(core.option) or not available():
            return None
        values = self._values(formulate(problem, core), limits)
        if values is None:
            return None
        taken = values[: len(core.option)] > 0.5
        result = choice.copy()
        result[core.request[taken]] = np.where(core.option[taken] == problem.shape[1], NEVER, core.option[taken])
        return result

    def _values(self, program: Program, limits: Limits) -> FloatArray | None:
        seconds = limits.left_s()
        if seconds is None:
            return _run(program, limits.nodes, None)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "kvhorizon-core")
        self._running = self._pool.submit(_run, program, limits.nodes, SHARE * max(seconds, 0.0))
        try:
            return self._running.result(max(limits.left_s() or 0.0, 0.0))
        except TimeoutError:
            return None


def pick(problem: Problem, bound: Bound, choice: IntArray, size: int) -> Open:
    """The `size` requests nearest to break-even, their cheapest options, and what the others leave."""
    tables, (count, points, _) = problem.tables, problem.shape
    taken = np.where(choice == NEVER, points, choice)
    regret = bound.reduced[np.arange(count), taken] - bound.least
    score = bound.margins - REGRET * regret
    open_ = np.flatnonzero(np.isfinite(score))
    request = np.sort(open_[np.argsort(score[open_], kind="stable")[:size]])
    allowed = np.zeros((len(request), points + 1), bool)
    cheapest = np.argsort(bound.reduced[request], axis=1, kind="stable")[:, :OPTIONS]
    np.put_along_axis(allowed, cheapest, True, axis=1)
    allowed[np.arange(len(request)), taken[request]] = True
    allowed[:, points] = True
    position, option = np.nonzero(allowed & np.isfinite(bound.reduced[request]))
    fixed = np.setdiff1d(np.flatnonzero(choice != NEVER), request)
    at = choice[fixed]
    prefill = np.bincount(at, weights=tables.prefill_tokens[fixed, at], minlength=points)
    return Open(
        request=request[position],
        position=position,
        option=option,
        capacity_blocks=tables.capacity_blocks - tables.blocks[fixed, at].sum(axis=0),
        max_sequences=tables.max_sequences - tables.sequences[fixed, at].sum(axis=0),
        prefill_budget_tokens=tables.prefill_budget_tokens - prefill,
        present_blocks=float(tables.present_blocks[0] - tables.held_blocks[fixed[at == 0]].sum()),
    )


def formulate(problem: Problem, core: Open) -> Program:
    """The core as rows and columns: one option each; blocks less overflow; sequences; prefill; present blocks."""
    tables, (_, points, buckets) = problem.tables, problem.shape
    size, columns = int(core.position.max()) + 1, len(core.option)
    column, held = np.arange(columns), np.flatnonzero(core.option < points)
    n, a = core.request[held], core.option[held]
    matrix = np.zeros((size + 2 * buckets + points + 1, columns + buckets))
    blocks, sequences, prefill = size, size + buckets, size + 2 * buckets  # first rows of each family
    matrix[core.position, column] = 1.0
    matrix[blocks:sequences, held] = tables.blocks[n, a].T
    matrix[blocks:sequences, columns:] = -np.eye(buckets)
    matrix[sequences:prefill, held] = tables.sequences[n, a].T
    matrix[prefill + a, held] = tables.prefill_tokens[n, a]
    matrix[-1, held[a == 0]] = tables.held_blocks[n[a == 0]]
    matrix[np.abs(matrix) <= TINY] = 0.0
    cost = tables.cost_never[core.request]
    cost[held] = tables.cost[n, a]
    upper = np.concatenate(
        [np.ones(size), core.capacity_blocks, core.max_sequences, core.prefill_budget_tokens, [core.present_blocks]]
    )
    lower = np.where(np.arange(len(upper)) < size, 1.0, -np.inf)
    most = matrix[:, :columns].clip(min=0.0).sum(axis=1)  # rows that even all columns together keep are idle
    keep = (np.arange(len(upper)) < size) | (most > upper)
    return Program(matrix[keep], lower[keep], upper[keep], np.concatenate([cost, tables.overflow_price]), columns)


def _run(program: Program, nodes: int, seconds: float | None) -> FloatArray | None:
    """Values of the columns, or None where HiGHS found nothing feasible within the limits."""
    import highspy

    options: dict[str, Any] = {
        "parallel": "off",
        "random_seed": 0,
        "mip_rel_gap": 1e-4,
        "mip_max_nodes": nodes,
        "simplex_iteration_limit": SIMPLEX_ITERATIONS,
        "mip_heuristic_effort": 0.0,  # the incumbent is good already; most of the time would go into these
        "mip_heuristic_run_feasibility_jump": False,
        "mip_detect_symmetry": False,
        "mip_allow_restart": False,
        "presolve": "off",
    }
    if seconds is not None:
        options["time_limit"] = seconds
    solver = new_solver(**options)
    rows, columns = program.matrix.shape
    at_column, at_row = np.nonzero(program.matrix.T)
    starts = np.searchsorted(at_column, np.arange(columns + 1)).astype(np.int32)
    free = np.arange(columns) >= program.integers
    solver.passModel(
        columns, rows, len(at_row),
        int(highspy.MatrixFormat.kColwise), int(highspy.ObjSense.kMinimize), 0.0,
        program.cost, np.zeros(columns), np.where(free, highspy.kHighsInf, 1.0),
        program.lower, program.upper,
        starts, at_row.astype(np.int32), program.matrix.T[at_column, at_row],
        np.where(free, 0, 1).astype(np.int32),
    )  # fmt: skip
    solver.run()
    if solver.getInfo().primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return None
    return np.array(solver.getSolution().col_value)
