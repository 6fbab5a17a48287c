"""Why the program decided as it did: one sentence per request, in its own prices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.program.model import NEVER, NO_REQUEST, Problem
from kvhorizon.solver.program.search.improve import Improved

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def explain(problem: Problem, improved: Improved) -> list[str]:
    """Sentences for the decisions: admissions now, evictions, then admissions later and what waits beyond the horizon.

    Running requests that stay get none. Costs are weighted seconds of delay; where prices are known, memory is counted
    at its price.
    """
    value = _values(problem, improved)
    running = problem.num_running
    there = problem.rows != NO_REQUEST
    evicted = np.flatnonzero((improved.choice[:running] != 0) & there[:running])
    waiting = running + np.flatnonzero(there[running:])
    waiting = waiting[np.lexsort((problem.key[waiting], _late_last(problem, improved.choice[waiting])))]
    now = waiting[improved.choice[waiting] == 0]
    later = waiting[improved.choice[waiting] != 0]
    return [_sentence(problem, improved, value, int(n)) for n in (*now, *evicted, *later)]


def _late_last(problem: Problem, choice: IntArray) -> IntArray:
    return np.where(choice == NEVER, problem.shape[1], choice)


def _values(problem: Problem, improved: Improved) -> FloatArray:
    """(N, A + 1) Cost of each option at the prices, or its own cost where there are none."""
    if improved.duals is not None:
        return improved.duals.reduced
    return np.column_stack([problem.tables.cost, problem.tables.cost_never])


def _sentence(problem: Problem, improved: Improved, value: FloatArray, n: int) -> str:
    points = problem.shape[1]
    chosen = points if improved.choice[n] == NEVER else int(improved.choice[n])
    others = np.where(np.arange(points + 1) == chosen, np.inf, value[n])
    other = int(np.argmin(others))
    verb, when = _option(problem, n, chosen)
    text = f"{verb} request {problem.handle[n]}{when}: costs {value[n, chosen]:.3g} s"
    if np.isfinite(others[other]):
        verb, when = _option(problem, n, other)
        text += f", to {verb}{when} would cost {others[other]:.3g} s"
    return text + _binding(problem, improved, n, min(chosen, other))


def _option(problem: Problem, n: int, option: int) -> tuple[str, str]:
    """What the option does, and when."""
    points = problem.shape[1]
    when = " beyond the horizon" if option == points else f" in {problem.point_steps[option]:.0f} steps"
    if n < problem.num_running:
        return ("keep", "") if option == 0 else ("evict", f" and resume it{when}")
    if option == 0:
        return "admit", " now"
    return "hold" if option == points else "admit", when


def _binding(problem: Problem, improved: Improved, n: int, option: int) -> str:
    """The bucket in which the earlier of the two options pays most for its memory."""
    if improved.duals is None or option >= problem.shape[1]:
        return ""
    prices = improved.duals.prices.blocks
    paid = prices * problem.tables.blocks[n, option]  # (K,)
    k = int(np.argmax(paid))
    if paid[k] <= 0.0:
        return "; memory has no price while it holds any"
    start, end = problem.bucket_steps[k : k + 2]
    blocks = problem.tables.blocks[n, option, k]
    return f"; tightest in steps {start:.0f}-{end:.0f}: {blocks:.1f} blocks at {prices[k]:.3g} s each"
