"""The rolling-horizon program written to be read: in PuLP, one function per family of constraints, and again in CP-SAT.

Neither is fast enough to plan with; both say what the planner approximates. They share the arrays of `program.model`
with it and nothing else. x[n, a] = 1 where request n holds its memory from admission point a on; v[k] is the overflow
of bucket k in blocks. Needs the extra `reference`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pulp
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from kvhorizon.solver.program.model import NEVER, Problem

IntArray = NDArray[np.int64]
Options = dict[tuple[int, int], Any]  # x by (n, a), for the options that exist

BLOCK_UNITS = 10**4  # per block; likewise of sequences
COST_UNITS = 10**4  # per weighted second


def solve_pulp(problem: Problem) -> tuple[IntArray, float]:
    """An optimal choice (N,), -1 for never, and its objective [weighted seconds]; CBC solves it.

    Raises RuntimeError where there is none: more must stay than the hard constraints allow.
    """
    program = pulp.LpProblem("rolling_horizon", pulp.LpMinimize)
    x = {(n, a): pulp.LpVariable(f"x_{n}_{a}", cat="Binary") for n, a in existing_options(problem)}
    v = [pulp.LpVariable(f"v_{k}", lowBound=0.0) for k in range(problem.shape[2])]
    program += delay(problem, x) + overflow(problem, v)
    for constraint in (
        *one_option(problem, x),
        *memory(problem, x, v),
        *sequences(problem, x),
        *prefill(problem, x),
        present_memory(problem, x),
    ):
        program += constraint
    program.solve(pulp.PULP_CBC_CMD(msg=False, gapRel=0.0, threads=1))
    if program.sol_status != pulp.LpSolutionOptimal:
        raise RuntimeError(f"no optimal solution: {pulp.LpStatus[program.status]}")
    return _choice(problem, {option: variable.value() for option, variable in x.items()}), pulp.value(program.objective)


def existing_options(problem: Problem) -> list[tuple[int, int]]:
    """(n, a) of finite cost: a running request may lack the option to be evicted."""
    size, points, _ = problem.shape
    return [(n, a) for n in range(size) for a in range(points) if math.isfinite(problem.tables.cost[n, a])]


def delay(problem: Problem, x: Options) -> Any:
    """Σ_n c_n∅ + Σ_{n,a} (c_na − c_n∅)·x_na: all wait beyond the horizon, unless they are let in.

    A request that must stay has no c_n∅; its options are counted at their own cost.
    """
    cost, never = problem.tables.cost, problem.tables.cost_never
    base = np.where(np.isfinite(never), never, 0.0)
    return float(base.sum()) + pulp.lpSum((cost[n, a] - base[n]) * x[n, a] for n, a in x)


def overflow(problem: Problem, v: list[Any]) -> Any:
    """Σ_k π_k·v_k: blocks beyond the pool will cost what evicting them costs; so the program always has a solution."""
    return pulp.lpSum(price * amount for price, amount in zip(problem.tables.overflow_price, v, strict=True))


def one_option(problem: Problem, x: Options) -> list[Any]:
    """Σ_a x_na ≤ 1: a request starts once, or not within the horizon; = 1 for one that must stay."""
    chosen: dict[int, list[Any]] = {}
    for (n, _), variable in x.items():
        chosen.setdefault(n, []).append(variable)
    never = problem.tables.cost_never
    return [
        pulp.lpSum(variables) <= 1 if math.isfinite(never[n]) else pulp.lpSum(variables) == 1
        for n, variables in chosen.items()
    ]


def memory(problem: Problem, x: Options, v: list[Any]) -> list[Any]:
    """Σ_{n,a} P_nak·x_na − v_k ≤ M_k: the chance-adjusted blocks of a bucket fit into the pool, or overflow it."""
    blocks, capacity = problem.tables.blocks, problem.tables.capacity_blocks
    return [
        pulp.lpSum(blocks[n, a, k] * x[n, a] for n, a in x if blocks[n, a, k] > 0.0) - v[k] <= capacity[k]
        for k in range(len(v))
    ]


def sequences(problem: Problem, x: Options) -> list[Any]:
    """Σ_{n,a} Q_nak·x_na ≤ N_k: the engine runs at most so many sequences at once, in expectation."""
    alive, limit = problem.tables.sequences, problem.tables.max_sequences
    return [pulp.lpSum(alive[n, a, k] * x[n, a] for n, a in x) <= limit[k] for k in range(len(limit))]


def prefill(problem: Problem, x: Options) -> list[Any]:
    """Σ_n prefill_na·x_na ≤ budget_a: steps take so many tokens until the next admission point."""
    tokens, budget = problem.tables.prefill_tokens, problem.tables.prefill_budget_tokens
    return [pulp.lpSum(tokens[n, a] * x[n, a] for n, a in x if a == at) <= budget[at] for at in range(len(budget))]


def present_memory(problem: Problem, x: Options) -> Any:
    """Σ_n held_n·x_n0 ≤ present: what is held at the next step are real blocks, free now or held by who runs."""
    held, present = problem.tables.held_blocks, problem.tables.present_blocks
    return pulp.lpSum(held[n] * x[n, a] for n, a in x if a == 0) <= present[0]


def solve_cpsat(problem: Problem, seconds: float = 60.0) -> tuple[IntArray, float]:
    """The same by CP-SAT, over integers: an optimal choice (N,) and its objective [weighted seconds].

    Coefficients are rounded: blocks and sequences to 1e-4, the limits with them, costs and prices to 1e-4 s, and the
    product of price and overflow to 1e-8 s. Hard constraints round to the safe side. So the objective is off by less
    than N·5e-5 + Σ_k (π_k·(N + 1)·5e-5 + 5e-5·v_k) seconds, and a solution within 1e-4 of a hard limit may be missed.
    Raises RuntimeError where it proves no optimum within `seconds`.
    """
    tables, model = problem.tables, cp_model.CpModel()
    x = {(n, a): model.new_bool_var(f"x_{n}_{a}") for n, a in existing_options(problem)}
    for n in range(problem.shape[0]):
        options = [x[n, a] for a in range(problem.shape[1]) if (n, a) in x]
        if math.isfinite(tables.cost_never[n]):
            model.add_at_most_one(options)
        else:
            model.add_exactly_one(options)
    most = _units(float(tables.blocks.max(axis=1, initial=0.0).sum(axis=0).max(initial=0.0)) + 1.0, BLOCK_UNITS)
    most += max(_units(-float(tables.capacity_blocks.min()), BLOCK_UNITS), 0)
    v = [model.new_int_var(0, most, f"v_{k}") for k in range(problem.shape[2])]
    for k, amount in enumerate(v):
        used = sum(_units(tables.blocks[n, a, k], BLOCK_UNITS) * x[n, a] for n, a in x)
        model.add(used - amount <= _units(tables.capacity_blocks[k], BLOCK_UNITS))
        alive = sum(math.ceil(tables.sequences[n, a, k] * BLOCK_UNITS) * x[n, a] for n, a in x)
        model.add(alive <= math.floor(tables.max_sequences[k] * BLOCK_UNITS))
    for at, budget in enumerate(tables.prefill_budget_tokens):
        tokens = sum(math.ceil(tables.prefill_tokens[n, a]) * x[n, a] for n, a in x if a == at)
        model.add(tokens <= math.floor(budget))
    held = sum(math.ceil(tables.held_blocks[n]) * x[n, a] for n, a in x if a == 0)
    model.add(held <= math.floor(tables.present_blocks[0]))
    base = np.where(np.isfinite(tables.cost_never), tables.cost_never, 0.0)
    per_block = COST_UNITS * BLOCK_UNITS
    waiting = sum(BLOCK_UNITS * _units(tables.cost[n, a] - base[n], COST_UNITS) * x[n, a] for n, a in x)
    overflowing = sum(
        _units(price, COST_UNITS) * amount for price, amount in zip(tables.overflow_price, v, strict=True)
    )
    model.minimize(waiting + overflowing)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    if status != cp_model.OPTIMAL:
        raise RuntimeError(f"no optimal solution: {solver.status_name(status)}")
    values = {option: float(solver.value(variable)) for option, variable in x.items()}
    return _choice(problem, values), solver.objective_value / per_block + float(base.sum())


def _units(value: float, units: int) -> int:
    return round(float(value) * units)


def _choice(problem: Problem, values: dict[tuple[int, int], float]) -> IntArray:
    choice = np.full(problem.shape[0], NEVER, np.int64)
    for (n, a), value in values.items():
        if value > 0.5:
            choice[n] = a
    return choice
