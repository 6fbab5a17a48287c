"""The greedy on a snapshot: which waiting requests it would admit now."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.survival import Curves
from kvhorizon.solver.heuristic.admission import choose_admissions, refresh_remaining
from kvhorizon.solver.heuristic.columns import Columns, Room
from kvhorizon.solver.heuristic.params import Greedy, at_pace
from kvhorizon.solver.heuristic.scratch import new_scratch
from kvhorizon.state import Snapshot

IntArray = NDArray[np.int64]
LEAST_WEIGHT = 1e-9  # the wire allows 0


def columns_of(snapshot: Snapshot) -> Columns:
    """The snapshot's requests as the columns that the compiled rules read."""
    requests = snapshot.requests
    return Columns(
        arrival_s=requests.arrival_s,
        prompt=requests.prompt_tokens.astype(np.int32),
        generated=requests.generated_tokens.astype(np.int32),
        computed=requests.computed_tokens.astype(np.int32),
        blocks=requests.blocks_held.astype(np.int32),
        limit=requests.output_limit_tokens.astype(np.int32),
        preemptions=requests.preemptions.astype(np.int32),
        out_of_order=requests.out_of_order,
        remaining=np.ones(len(requests)),
        weight=np.maximum(requests.weight, LEAST_WEIGHT),
        shared=requests.shared_tokens.astype(np.int32),
        idle=np.maximum(requests.cached_tokens - requests.shared_tokens, 0).astype(np.int32),
        turn=np.full(len(requests), -1.0),
    )


def room_of(snapshot: Snapshot, rule: Greedy) -> Room:
    """What the snapshot's engine has left for admissions, if its running requests take one step's tokens first."""
    facts, requests = snapshot.facts, snapshot.requests
    running = slice(0, snapshot.num_running)
    known = requests.prompt_tokens[running] + requests.generated_tokens[running]
    owed = np.maximum(-(-known // facts.block_size) - requests.blocks_held[running], 0)
    step_tokens = np.minimum(np.cumsum(known - requests.computed_tokens[running]), facts.max_num_batched_tokens)
    return Room(
        free_blocks=snapshot.free_blocks,
        owed_blocks=int(owed.sum()),
        total_blocks=facts.total_blocks,
        block_size=facts.block_size,
        seats=facts.max_num_seqs - snapshot.num_running,
        token_budget=facts.max_num_batched_tokens - (int(step_tokens[-1]) if snapshot.num_running else 0),
        now_s=snapshot.now_s,
        late_after_s=rule.order.late_after_s,
        used_blocks=facts.total_blocks - snapshot.free_blocks,
        step_s=snapshot.step_s,
        prefill_s_per_token=facts.cost.linear_s_per_token,
    )


def admissions(snapshot: Snapshot, rule: Greedy, curves: Curves) -> IntArray:
    """Indices (a,) of the waiting requests that the rule admits now, in order."""
    size = len(snapshot.requests)
    room = room_of(snapshot, rule)
    if room.seats <= 0 or size == snapshot.num_running:
        return np.zeros(0, np.int64)
    scratch = new_scratch(size, room.seats)
    num_waiting = size - snapshot.num_running
    scratch.waiting[:num_waiting] = np.arange(snapshot.num_running, size)
    columns = columns_of(snapshot)
    refresh_remaining(columns, curves, scratch.waiting, num_waiting)
    running = np.arange(snapshot.num_running, dtype=np.int32)
    rule = at_pace(rule, snapshot.habits.tokens_per_step)
    chosen = choose_admissions(columns, curves, rule, running, snapshot.num_running, room, scratch, num_waiting)
    return scratch.result.chosen[:chosen].astype(np.int64)
