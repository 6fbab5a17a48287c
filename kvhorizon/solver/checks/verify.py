"""What feasible means, said a second time: it shares no code with any solver and lists what is violated."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.program.model import Problem
from kvhorizon.state import Plan, Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TOLERANCE = 1e-6


def overflow_blocks(problem: Problem, choice: IntArray) -> FloatArray:
    """Blocks (K,) beyond the capacity of each bucket; allowed, at a price."""
    used = np.zeros(problem.shape[2])
    for n, a in enumerate(choice):
        if a >= 0:
            used += problem.tables.blocks[n, a]
    return np.maximum(used - problem.tables.capacity_blocks, 0.0)


def objective(problem: Problem, choice: IntArray) -> float:
    """Weighted seconds of delay of a choice (N,), -1 for never; inf where a request picks what it must not."""
    cost, never = problem.tables.cost, problem.tables.cost_never
    delay = math.fsum(never[n] if a < 0 else cost[n, a] for n, a in enumerate(choice))
    return delay + math.fsum(problem.tables.overflow_price * overflow_blocks(problem, choice))


def violations(problem: Problem, choice: IntArray) -> list[str]:
    """Hard constraints that a choice (N,) breaks, one sentence each; empty where it is feasible."""
    size, points, _ = problem.shape
    if len(choice) != size:
        return [f"choice has {len(choice)} entries, must be {size}, one per request"]
    if outside := [(n, a) for n, a in enumerate(choice) if not -1 <= a < points]:
        return [f"request {n} picks option {a}, must be within -1 ... {points - 1}" for n, a in outside]
    return (
        _impossible(problem, choice)
        + _sequences(problem, choice)
        + _prefill(problem, choice)
        + _present(problem, choice)
    )


def _impossible(problem: Problem, choice: IntArray) -> list[str]:
    cost, never = problem.tables.cost, problem.tables.cost_never
    found = [f"request {n} has no option {a}" for n, a in enumerate(choice) if a >= 0 and not math.isfinite(cost[n, a])]
    return found + [f"request {n} must stay" for n, a in enumerate(choice) if a < 0 and not math.isfinite(never[n])]


def _sequences(problem: Problem, choice: IntArray) -> list[str]:
    found = []
    for k, limit in enumerate(problem.tables.max_sequences):
        used = math.fsum(problem.tables.sequences[n, a, k] for n, a in enumerate(choice) if a >= 0)
        if used > limit + TOLERANCE:
            found.append(f"bucket {k} has {used:.3f} sequences, must be <= {limit:.0f}")
    return found


def _prefill(problem: Problem, choice: IntArray) -> list[str]:
    found = []
    for point, budget in enumerate(problem.tables.prefill_budget_tokens):
        used = math.fsum(problem.tables.prefill_tokens[n, a] for n, a in enumerate(choice) if a == point)
        if used > budget + TOLERANCE:
            found.append(f"point {point} prefills {used:.0f} tokens, must be <= {budget:.0f}")
    return found


def _present(problem: Problem, choice: IntArray) -> list[str]:
    used = math.fsum(problem.tables.held_blocks[n] for n, a in enumerate(choice) if a == 0)
    there = float(problem.tables.present_blocks[0])
    return [f"{used:.0f} blocks are held now, must be <= {there:.0f}"] if used > there + TOLERANCE else []


def plan_violations(snapshot: Snapshot, plan: Plan) -> list[str]:
    """What is wrong with a plan for this snapshot, one sentence each; empty where it can be carried out at once."""
    found = _base(snapshot, plan) + _handles(snapshot, plan) + _prices(plan)
    if len(plan.admit_at_steps) != len(plan.admissions):
        return [*found, f"{len(plan.admit_at_steps)} admission points for {len(plan.admissions)} admissions"]
    if not all(math.isfinite(at) and at >= 0.0 for at in plan.admit_at_steps):
        found.append("admit_at_steps must be finite and >= 0")
    return found or _room(snapshot, plan)


def _base(snapshot: Snapshot, plan: Plan) -> list[str]:
    found = []
    if plan.based_on_revision != snapshot.revision:
        found.append(f"based_on_revision={plan.based_on_revision}, must be {snapshot.revision}")
    if plan.engine_epoch != snapshot.facts.engine_epoch:
        found.append(f"engine_epoch={plan.engine_epoch}, must be {snapshot.facts.engine_epoch}")
    return found


def _handles(snapshot: Snapshot, plan: Plan) -> list[str]:
    handles = snapshot.requests.handle.tolist()
    running, waiting = set(handles[: snapshot.num_running]), set(handles[snapshot.num_running :])
    found = []
    for field, kind, among in (
        ("admissions", "waiting", waiting),
        ("evictions", "running", running),
    ):
        named = getattr(plan, field).tolist()
        found += [f"{field} names {handle}, which is not {kind}" for handle in named if handle not in among]
        if len(set(named)) < len(named):
            found.append(f"{field} names a request twice")
    return found


def _prices(plan: Plan) -> list[str]:
    found = []
    if len(plan.block_prices) != len(plan.bucket_steps):
        found.append(f"{len(plan.block_prices)} prices for {len(plan.bucket_steps)} buckets")
    if not all(math.isfinite(price) and price >= 0.0 for price in plan.block_prices):
        found.append("block_prices must be finite and >= 0")
    steps = plan.bucket_steps.tolist()
    if any(later <= earlier for earlier, later in pairwise(steps)):
        found.append("bucket_steps must ascend")
    return found


def _room(snapshot: Snapshot, plan: Plan) -> list[str]:
    """Admissions for now against the blocks and seats that are free or given up."""
    requests, facts = snapshot.requests, snapshot.facts
    row = {handle: n for n, handle in enumerate(requests.handle.tolist())}
    now = [row[h] for h, at in zip(plan.admissions.tolist(), plan.admit_at_steps, strict=True) if at == 0.0]
    shared = [int(tokens) // facts.block_size for tokens in requests.shared_tokens]
    contexts = {n: int(requests.prompt_tokens[n]) + int(requests.generated_tokens[n]) for n in now}
    wanted = sum(max(math.ceil(tokens / facts.block_size) - shared[n], 0) for n, tokens in contexts.items())
    leaving = [row[handle] for handle in plan.evictions.tolist()]
    free = snapshot.free_blocks + sum(max(int(requests.blocks_held[n]) - shared[n], 0) for n in leaving)
    found = [f"admissions now take {wanted} blocks, must be <= {free}"] if wanted > free else []
    seats = facts.max_num_seqs - snapshot.num_running + len(plan.evictions)
    return found + ([f"{len(now)} admissions now, must be <= {seats} seats"] if now and len(now) > seats else [])
