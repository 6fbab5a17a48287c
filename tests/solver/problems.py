"""Random snapshots of an engine under pressure, for the solver's tests."""

import numpy as np

from kvhorizon.models.resolve import resolve_curves
from kvhorizon.solver.problem import Problem, Settings, build
from kvhorizon.state import EngineFacts, ForecastKind, Requests, Snapshot, StepCost

COST = StepCost(
    fixed_s=5e-3,
    weights_s=9e-3,
    linear_s_per_token=6e-5,
    attention_s_per_pair=3e-9,
    kv_read_s_per_token=1e-7,
    sequence_s=4e-5,
)
SMALL = Settings(buckets=4, points=3)


def random_snapshot(seed: int, running: int, waiting: int, use: float | None = None, batched: int = 2048) -> Snapshot:
    """`running` requests somewhere in their output, `waiting` ones, on a pool that is used to a share `use`."""
    rng = np.random.default_rng(seed)
    size = running + waiting
    prompt = np.clip(rng.lognormal(6.0, 1.0, size), 4, 8000).astype(np.int64)
    median = np.clip(rng.lognormal(5.5, 1.0, size), 4, 4000)
    generated = np.zeros(size, np.int64)
    generated[:running] = 1 + (rng.random(running) * median[:running]).astype(np.int64)
    evicted = rng.random(size) < 0.1
    evicted[:running] = False
    generated[evicted] = (rng.random(int(evicted.sum())) * 200).astype(np.int64)
    computed = np.where(np.arange(size) < running, prompt + generated - 1, 0)
    held = np.where(np.arange(size) < running, -(-computed // 16), 0)
    share = float(rng.uniform(0.7, 1.0)) if use is None else use
    total = max(int(held.sum() / share), 16, int(np.max(-(-(prompt + generated) // 16), initial=0)) + 1)
    facts = EngineFacts(total, 16, running + int(rng.integers(1, 64)), batched, 131072, COST, engine_epoch=7)
    kinds = rng.choice([ForecastKind.NONE, ForecastKind.POINT, ForecastKind.POINT], size)
    requests = Requests(
        handle=rng.permutation(10 * size)[:size].astype(np.uint64),
        arrival_s=100.0 - rng.exponential(5.0, size),
        prompt_tokens=prompt,
        generated_tokens=generated,
        computed_tokens=computed,
        blocks_held=held,
        output_limit_tokens=np.full(size, 16384),
        preemptions=evicted.astype(np.int64),
        cached_tokens=np.zeros(size, np.int64),
        weight=np.where(rng.random(size) < 0.2, 3.0, 1.0),
        overtaker=np.zeros(size, np.uint8),
        forecast_kind=kinds.astype(np.uint8),
        forecast_scale=median + generated,
        forecast_log_sigma=np.where(rng.random(size) < 0.3, 0.0, 0.6),
        forecast_curve=np.zeros(size, np.int64),
    )
    return Snapshot(facts, seed + 1, 100.0, total - int(held.sum()), 0.02, running, requests)


def random_problem(seed: int, running: int, waiting: int, settings: Settings = SMALL) -> Problem:
    snapshot = random_snapshot(seed, running, waiting)
    return build(snapshot, resolve_curves(snapshot), settings)
