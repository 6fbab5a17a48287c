"""What a plan means for each request, in numbers and one sentence."""

from typing import NamedTuple

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.v1 import scheduler_pb2 as pb


class Explanation(NamedTuple):
    """Of one request; `rank` and `admit_at_steps` are None where the plan does not admit it."""

    handle: int
    decision: int  # of the contract's enum Decision
    rank: int | None
    admit_at_steps: float | None
    blocks: int
    block_price: float
    text: str


def explain(snapshot: Snapshot, plan: Plan, handles: list[int]) -> list[Explanation]:
    """Explanations in the order of `handles` (all live requests if empty); raises InputError for an unknown one."""
    row_of = {int(handle): n for n, handle in enumerate(snapshot.requests.handle)}
    unknown = [handle for handle in handles if handle not in row_of]
    if unknown:
        raise InputError("handle", unknown[0], "must be a live request")
    evicted = {int(handle) for handle in plan.evictions}
    admission = {int(h): (rank, float(plan.admit_at_steps[rank])) for rank, h in enumerate(plan.admissions)}
    price = float(plan.block_prices[0]) if len(plan.block_prices) else 0.0
    return [
        _running(snapshot, row_of[handle], handle in evicted, price)
        if row_of[handle] < snapshot.num_running
        else _waiting(snapshot, row_of[handle], admission.get(handle), price)
        for handle in handles or row_of
    ]


def _running(snapshot: Snapshot, n: int, evicted: bool, price: float) -> Explanation:
    size = snapshot.facts.block_size
    blocks = max(int(snapshot.requests.blocks_held[n]) - int(snapshot.requests.shared_tokens[n]) // size, 0)
    text = f"{'evict: frees' if evicted else 'keep: holds'} {blocks} blocks at {price:.3g} s each"
    decision = pb.DECISION_EVICT if evicted else pb.DECISION_KEEP
    return Explanation(int(snapshot.requests.handle[n]), decision, None, None, blocks, price, text)


def _waiting(snapshot: Snapshot, n: int, admission: tuple[int, float] | None, price: float) -> Explanation:
    requests = snapshot.requests
    tokens = int(requests.prompt_tokens[n] + requests.generated_tokens[n])
    size = snapshot.facts.block_size
    blocks = max(int(np.ceil(tokens / size)) - int(requests.shared_tokens[n]) // size, 0)
    needs = f"its {tokens} tokens need {blocks} blocks at {price:.3g} s each; {snapshot.free_blocks} are free"
    cached = int(requests.cached_tokens[n])
    if cached > 0:
        needs += f"; {cached} of the tokens are cached, {int(requests.shared_tokens[n])} in blocks that others hold"
    handle = int(requests.handle[n])
    if admission is None:
        text = f"wait beyond the horizon: {needs}"
        return Explanation(handle, pb.DECISION_WAIT, None, None, blocks, price, text)
    rank, at_steps = admission
    when = "now" if at_steps <= 0.0 else f"in {at_steps:.0f} steps"
    decision = pb.DECISION_ADMIT_NOW if at_steps <= 0.0 else pb.DECISION_ADMIT_LATER
    return Explanation(handle, decision, rank, at_steps, blocks, price, f"admit {when}, number {rank + 1}: {needs}")
