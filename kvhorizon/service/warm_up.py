"""Plan once for a small made-up engine, so that everything is compiled before the first real request for a plan."""

from typing import Any

import numpy as np

from kvhorizon.models.forecast.survival import lognormal_curve
from kvhorizon.service.calls import PlannerLike
from kvhorizon.state import EngineFacts, ForecastKind, Requests, Snapshot, StepCost

_RUNNING, _WAITING = 6, 12
_COST = StepCost(
    fixed_s=1e-3,
    weights_s=5e-3,
    linear_s_per_token=1e-5,
    attention_s_per_pair=1e-9,
    kv_read_s_per_token=1e-8,
    sequence_s=4e-5,
    flops_per_token=1.6e10,
    flops_per_pair=5e5,
)


def warm_up(planner: PlannerLike, budget: Any, rounds: int = 2) -> None:
    """Plan `rounds` times, the later ones on what the planner kept from the first."""
    for revision in range(1, rounds + 1):
        planner.plan(sample_snapshot(revision), budget)


def sample_snapshot(revision: int = 1) -> Snapshot:
    """An engine short of blocks, with every kind of forecast, running and waiting requests, and preempted ones."""
    facts = EngineFacts(
        total_blocks=120, block_size=16, max_num_seqs=8, max_num_batched_tokens=512, max_model_len=1024, cost=_COST
    )
    requests = _requests(_RUNNING + _WAITING)
    return Snapshot(
        facts=facts,
        revision=revision,
        now_s=10.0 + revision,
        free_blocks=facts.total_blocks - int(requests.blocks_held.sum()),
        step_s=0.02,
        num_running=_RUNNING,
        requests=requests,
        curves=lognormal_curve(0.6)[None, :],  # (1, G)
        curves_version=1,
    )


def _requests(count: int) -> Requests:
    """Columns (N,) whose values repeat with different periods, so that few rows show many combinations."""
    n = np.arange(count)
    runs = n < _RUNNING
    prompt = 100 + 40 * (n % 5)
    generated = np.where(runs, 20 + 10 * n, np.where(n % 4 == 0, 30, 0))  # some of the waiting were preempted
    computed = np.where(runs, prompt + generated, 0)
    return Requests(
        handle=n.astype(np.uint64) + np.uint64(1),
        arrival_s=0.5 * n.astype(np.float64),
        prompt_tokens=prompt,
        generated_tokens=generated,
        computed_tokens=computed,
        blocks_held=-(-computed // 16),
        output_limit_tokens=np.full(count, 512),
        preemptions=np.where(~runs & (generated > 0), 1, 0),
        cached_tokens=np.where(~runs & (n % 3 == 0), 32, 0),
        shared_tokens=np.zeros(count, dtype=np.int64),
        weight=np.ones(count),
        out_of_order=(n % 5 == 1).astype(np.uint8),
        forecast_kind=(n % len(ForecastKind)).astype(np.uint8),
        forecast_scale=np.where(n % len(ForecastKind) == ForecastKind.NONE, 0.0, 150.0),
        forecast_log_sigma=np.where(n % 2 == 0, 0.6, 0.0),
        forecast_curve=np.zeros(count, dtype=np.int64),
    )
