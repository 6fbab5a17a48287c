"""The program, readable: in PuLP as a paper would write it, and again in CP-SAT as a second opinion.

Neither is fast; tests hold the planner against them, and people read them. Needs the extra `reference`.

    min  Σ_n c_n∅ + Σ_{n,a} (c_na − c_n∅)·x_na + Σ_k π_k·v_k
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pulp
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from kvhorizon.solver.problem import NEVER, Problem

IntArray = NDArray[np.int64]
SCALE = 1_000  # CP-SAT counts in integers: thousandths of blocks, sequences and tokens …
COST_SCALE = 1_000_000_000  # … and nanoseconds of delay


def options(problem: Problem) -> list[tuple[int, int]]:
    """Pairs (n, a) that exist."""
    size, points, _ = problem.shape
    return [(n, a) for n in range(size) for a in range(points) if np.isfinite(problem.cost[n, a])]


def solve_pulp(problem: Problem) -> tuple[IntArray, float]:
    """(optimal choice (N,), its objective in weighted seconds), by PuLP's bundled CBC."""
    model = pulp.LpProblem("rolling_horizon", pulp.LpMinimize)
    x = {(n, a): pulp.LpVariable(f"x_{n}_{a}", cat="Binary") for n, a in options(problem)}
    v = [pulp.LpVariable(f"v_{k}", lowBound=0) for k in range(problem.shape[2])]
    model += _delay(problem, x) + pulp.lpSum(
        price * over for price, over in zip(problem.overflow_price, v, strict=True)
    )
    _one_option_each(model, problem, x)
    _memory(model, problem, x, v)
    _sequences(model, problem, x)
    _prefill(model, problem, x)
    status = model.solve(pulp.PULP_CBC_CMD(msg=False, gapRel=1e-9))
    if pulp.LpStatus[status] != "Optimal":
        raise RuntimeError(f"the reference program ended {pulp.LpStatus[status]}; its data cannot be right")
    return _chosen(problem, {key: pulp.value(var) for key, var in x.items()}), float(pulp.value(model.objective))


def _delay(problem: Problem, x: dict[tuple[int, int], Any]) -> Any:
    """Σ_n c_n∅ + Σ_{n,a} (c_na − c_n∅)·x_na: everyone is late by c_n∅ unless an option says better.

    Where "not within the horizon" does not exist (a running request that must stay), its own first option is the base.
    """
    base = np.where(np.isfinite(problem.cost_never), problem.cost_never, problem.cost[:, 0])
    return float(base.sum()) + pulp.lpSum((problem.cost[n, a] - base[n]) * var for (n, a), var in x.items())


def _one_option_each(model: Any, problem: Problem, x: dict[tuple[int, int], Any]) -> None:
    """Σ_a x_na ≤ 1, or = 1 where a request may not be left out: a request starts once, or stays."""
    for n in range(problem.shape[0]):
        taken = pulp.lpSum(var for (m, _), var in x.items() if m == n)
        model += (taken <= 1) if np.isfinite(problem.cost_never[n]) else (taken == 1)


def _memory(model: Any, problem: Problem, x: dict[tuple[int, int], Any], v: list[Any]) -> None:
    """Σ_{n,a} P_nak·x_na − v_k ≤ M_k: expected blocks and their spread stay within the pool, or overflow at a price."""
    for k, capacity in enumerate(problem.capacity_blocks):
        model += pulp.lpSum(problem.blocks[n, a, k] * var for (n, a), var in x.items()) - v[k] <= float(capacity)


def _sequences(model: Any, problem: Problem, x: dict[tuple[int, int], Any]) -> None:
    """Σ_{n,a} Q_nak·x_na ≤ N_max: the engine batches only so many sequences."""
    for k in range(problem.shape[2]):
        model += pulp.lpSum(problem.sequences[n, a, k] * var for (n, a), var in x.items()) <= problem.max_sequences


def _prefill(model: Any, problem: Problem, x: dict[tuple[int, int], Any]) -> None:
    """Σ_n prefill_na·x_na ≤ budget_a: prompts started at one point share its steps' token budget."""
    for point, budget in enumerate(problem.prefill_budget_tokens):
        chosen = (problem.prefill_tokens[n, a] * var for (n, a), var in x.items() if a == point)
        model += pulp.lpSum(chosen) <= float(budget)


def _chosen(problem: Problem, values: dict[tuple[int, int], float]) -> IntArray:
    choice = np.full(problem.shape[0], NEVER, np.int64)
    for (n, a), value in values.items():
        if value > 0.5:
            choice[n] = a
    return choice


def solve_cpsat(problem: Problem, seconds: float = 30.0) -> tuple[IntArray, float]:
    """(optimal choice (N,), its objective in weighted seconds), by CP-SAT.

    Coefficients are rounded to thousandths (resources: up for use, down for capacity, so that its choice is
    feasible), costs to a nanosecond; the objective may exceed the exact optimum by what the rounding takes away.
    """
    model = cp_model.CpModel()
    x = {(n, a): model.new_bool_var(f"x_{n}_{a}") for n, a in options(problem)}
    size, points, buckets = problem.shape

    def units(value: float) -> int:
        return int(np.ceil(value * SCALE - 1e-9))

    def room(value: float) -> int:
        return int(np.floor(value * SCALE + 1e-9))

    for n in range(size):
        taken = sum(x[key] for key in x if key[0] == n)
        model.add(taken <= 1) if np.isfinite(problem.cost_never[n]) else model.add(taken == 1)
    overflow = []
    for k in range(buckets):
        most = units(float(problem.blocks[:, :, k].max(axis=1).sum()) + abs(float(problem.capacity_blocks[k])))
        over = model.new_int_var(0, most, f"v_{k}")
        used = sum(units(problem.blocks[n, a, k]) * var for (n, a), var in x.items())
        model.add(used - over <= room(problem.capacity_blocks[k]))
        sequences = sum(units(problem.sequences[n, a, k]) * var for (n, a), var in x.items())
        model.add(sequences <= room(problem.max_sequences))
        overflow.append(round(problem.overflow_price[k] * COST_SCALE / SCALE) * over)
    for point in range(points):
        started = sum(units(problem.prefill_tokens[n, a]) * var for (n, a), var in x.items() if a == point)
        model.add(started <= room(problem.prefill_budget_tokens[point]))
    base = np.where(np.isfinite(problem.cost_never), problem.cost_never, problem.cost[:, 0])
    delay = sum(round((problem.cost[n, a] - base[n]) * COST_SCALE) * var for (n, a), var in x.items())
    model.minimize(delay + sum(overflow))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = seconds
    if solver.solve(model) != cp_model.OPTIMAL:
        raise RuntimeError(f"CP-SAT ended {solver.status_name()} after {seconds} s")
    choice = _chosen(problem, {key: float(solver.value(var)) for key, var in x.items()})
    return choice, float(base.sum()) + solver.objective_value / COST_SCALE
