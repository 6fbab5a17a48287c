"""What feasible means, said once more: independent of every solver, it lists what a choice or a plan violates."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.problem import Problem
from kvhorizon.state import Plan, Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TOLERANCE = 1e-6


def blocks_used(problem: Problem, choice: IntArray) -> FloatArray:
    """Expected blocks (K,) of a choice (N,)."""
    return sum((problem.blocks[n, a] for n, a in enumerate(choice) if a >= 0), np.zeros(len(problem.capacity_blocks)))


def overflow_blocks(problem: Problem, choice: IntArray) -> FloatArray:
    """Blocks (K,) beyond the capacity; allowed, at a price."""
    return np.maximum(blocks_used(problem, choice) - problem.capacity_blocks, 0.0)


def objective(problem: Problem, choice: IntArray) -> float:
    """Weighted seconds of delay of a choice (N,)."""
    delay = math.fsum(problem.cost_never[n] if a < 0 else problem.cost[n, a] for n, a in enumerate(choice))
    return delay + float(np.dot(problem.overflow_price, overflow_blocks(problem, choice)))


def violations(problem: Problem, choice: IntArray) -> list[str]:
    """Hard constraints that a choice (N,) breaks, one sentence each; empty where it is feasible."""
    size, points, buckets = problem.shape
    if len(choice) != size:
        return [f"choice has {len(choice)} entries, must be one for each of {size} requests"]
    found = [
        f"request {n} picks option {a}, must be -1 or 0..{points - 1}"
        for n, a in enumerate(choice)
        if not -1 <= a < points
    ]
    if found:
        return found
    found = [
        f"request {n} picks option {a}, which does not exist"
        for n, a in enumerate(choice)
        if a >= 0 and not math.isfinite(problem.cost[n, a])
    ]
    for k in range(buckets):
        used = math.fsum(problem.sequences[n, a, k] for n, a in enumerate(choice) if a >= 0)
        if used > problem.max_sequences + TOLERANCE:
            found.append(f"bucket {k} holds {used:.3f} sequences, must be <= {problem.max_sequences}")
    for point in range(points):
        used = math.fsum(problem.prefill_tokens[n, point] for n, a in enumerate(choice) if a == point)
        if used > problem.prefill_budget_tokens[point] + TOLERANCE:
            found.append(
                f"point {point} prefills {used:.1f} tokens, must be <= {problem.prefill_budget_tokens[point]:.1f}"
            )
    return found


def _handles(snapshot: Snapshot, plan: Plan) -> list[str]:
    handles = snapshot.requests.handle
    running = set(handles[: snapshot.num_running].tolist())
    waiting = set(handles[snapshot.num_running :].tolist())
    found = []
    for name, named, allowed in (
        ("admissions", plan.admissions, waiting),
        ("evictions", plan.evictions, running),
        ("victims", plan.victims, running),
    ):
        listed = named.tolist()
        if len(set(listed)) != len(listed):
            found.append(f"{name} names a request twice")
        found += [
            f"{name} names {handle}, which is not among those that may be" for handle in listed if handle not in allowed
        ]
    return found


def plan_violations(snapshot: Snapshot, plan: Plan) -> list[str]:
    """What is wrong with a plan for this snapshot, one sentence each; empty where it can be carried out now."""
    found = _handles(snapshot, plan)
    if plan.based_on_revision != snapshot.revision:
        found.append(f"based_on_revision={plan.based_on_revision}, must be {snapshot.revision}")
    if len(plan.admit_at_steps) != len(plan.admissions):
        found.append("admit_at_steps must have one entry per admission")
        return found
    if found:
        return found
    facts, requests = snapshot.facts, snapshot.requests
    row = {int(handle): n for n, handle in enumerate(requests.handle)}
    now = [row[int(handle)] for handle, at in zip(plan.admissions, plan.admit_at_steps, strict=True) if at == 0.0]
    tokens = requests.prompt_tokens[now] + requests.generated_tokens[now]
    wanted = int((-(-tokens // facts.block_size)).sum())
    freed = int(sum(requests.blocks_held[row[int(handle)]] for handle in plan.evictions))
    if wanted > snapshot.free_blocks + freed:
        found.append(f"admissions now take {wanted} blocks, must be <= {snapshot.free_blocks + freed} free or freed")
    seats = facts.max_num_seqs - snapshot.num_running + len(plan.evictions)
    if len(now) > seats:
        found.append(f"{len(now)} admissions now, must be <= {seats} seats")
    if np.any(plan.admit_at_steps < 0.0):
        found.append("admit_at_steps must be >= 0")
    if not np.all(np.isfinite(plan.block_prices)) or np.any(plan.block_prices < 0.0):
        found.append("block_prices must be finite and >= 0")
    if np.any(np.diff(plan.bucket_steps) <= 0.0):
        found.append("bucket_steps must ascend")
    return found
