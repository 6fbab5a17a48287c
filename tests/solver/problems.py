"""Random engines and random programs for the solver's tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from experiments.bench._ticks import COST, CURVES
from kvhorizon.solver.program.model import Problem, Tables, turn
from kvhorizon.state import EngineFacts, ForecastKind, Requests, Snapshot


def shared_part(
    cached: NDArray[np.int64], runs: NDArray[np.bool_], held: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    """Tokens in whole blocks: half of what a waiting request finds, a third of what every third running one holds."""
    of_running = np.where(np.arange(len(held)) % 3 == 0, held // 3, 0)
    return np.where(runs, of_running, cached // size // 2) * size


def random_snapshot(
    seed: int,
    running: int,
    waiting: int,
    occupancy: float | None = None,
    block_size: int = 16,
    batch_tokens: int = 2048,
    caching: bool = True,
) -> Snapshot:
    """An engine whose pool is `occupancy` (random if None) full, with every kind of forecast and mixed lengths."""
    rng = np.random.default_rng(seed)
    count = running + waiting
    runs = np.arange(count) < running
    prompt = np.clip(rng.lognormal(np.log(300), 1.0, count), 4, 6000).astype(np.int64)
    median = np.clip(rng.lognormal(np.log(200), 1.2, count), 4, 8000)
    preempted = ~runs & (rng.random(count) < 0.15)
    generated = np.where(runs | preempted, rng.random(count) * median, 0).astype(np.int64)
    context = prompt + generated
    prefilling = runs & (rng.random(count) < 0.1)
    computed = np.where(runs, np.where(prefilling, context // 2, np.maximum(context - 1, 0)), 0)
    held = np.where(runs, -(-context // block_size), 0)
    share = rng.uniform(0.5, 1.0) if occupancy is None else occupancy
    total = max(int(held.sum() / share), 8)
    kind = rng.integers(0, len(ForecastKind), count)
    facts = EngineFacts(total, block_size, max(running + 4, int(1.3 * running)), batch_tokens, 16384, COST)
    requests = Requests(
        handle=rng.permutation(10 * count + 1)[:count].astype(np.uint64) + np.uint64(1),
        arrival_s=100.0 - np.where(runs, rng.exponential(20.0, count), rng.exponential(5.0, count)).clip(max=100.0),
        prompt_tokens=prompt,
        generated_tokens=generated,
        computed_tokens=computed.astype(np.int64),
        blocks_held=held.astype(np.int64),
        output_limit_tokens=np.full(count, 8192),
        preemptions=preempted.astype(np.int64) + rng.integers(0, 2, count) * runs,
        cached_tokens=(cached := np.where(rng.random(count) < 0.2, prompt // 2, 0) * ~runs * caching),
        shared_tokens=shared_part(cached, runs, held, block_size) * caching,
        weight=np.where(rng.random(count) < 0.2, 3.0, 1.0),
        out_of_order=(rng.random(count) < 0.2).astype(np.uint8),
        forecast_kind=kind.astype(np.uint8),
        forecast_scale=np.where(kind == ForecastKind.NONE, 0.0, median),
        forecast_log_sigma=np.where(kind == ForecastKind.POINT, rng.choice([0.0, 0.3, 0.6], count), 0.0),
        forecast_curve=np.where(kind == ForecastKind.CURVE, rng.integers(0, len(CURVES), count), 0),
    )
    return Snapshot(facts, 1, 100.0, total - int(held.sum()), 0.02, running, requests, CURVES, 1)


def random_problem(seed: int, running: int, waiting: int, points: int = 3, buckets: int = 4) -> Problem:
    """A program with no engine behind it: every kind of constraint binds now and then, evictions included."""
    rng = np.random.default_rng(seed)
    count = running + waiting
    runs = np.arange(count) < running
    bucket = np.rint(np.linspace(0, buckets - 1, points)).astype(np.int64)
    later = np.arange(buckets) >= bucket[:, None]  # (A, K)
    blocks = rng.integers(1, 40, (count, 1, 1)) * rng.uniform(0.3, 1.0, (count, points, buckets)) * later
    sequences = rng.uniform(0.2, 1.0, (count, points, buckets)) * later
    prefill = np.repeat(rng.integers(1, 200, (count, 1)), points, axis=1).astype(np.float64)
    prefill[runs, 0] = 0.0
    held = np.ceil(blocks[:, 0].max(axis=1))
    cost = np.cumsum(rng.uniform(0.0, 2.0, (count, points)), axis=1) * rng.choice([1.0, 5.0], (count, 1))
    cost[:, 0] = 0.0
    never = cost[:, -1] + rng.uniform(0.1, 4.0, count)
    stays = runs & (rng.random(count) < 0.7)
    cost[stays, 1:], never[stays] = np.inf, np.inf
    tables = Tables(
        cost=cost,
        cost_never=never,
        blocks=blocks,
        sequences=sequences,
        prefill_tokens=prefill,
        held_blocks=held,
        capacity_blocks=rng.uniform(0.3, 0.9) * blocks[:, 0].sum(axis=0),
        max_sequences=np.full(buckets, float(running + max(1, waiting // 2))),
        prefill_budget_tokens=rng.uniform(0.2, 0.6) * prefill[:, -1].sum() + np.zeros(points),
        present_blocks=np.array([held[runs].sum() + np.floor(0.4 * held[~runs].sum())]),
        overflow_price=rng.uniform(0.02, 0.5, buckets),
        admission_bucket=bucket,
    )
    key = np.where(runs, 0.0, rng.random(count))
    handles = np.arange(count, dtype=np.uint64) + np.uint64(100)
    loss = np.where(runs, rng.uniform(0.1, 5.0, count), 0.0)[:running]
    return Problem(
        tables,
        8.0 * np.arange(buckets + 1),
        running,
        np.arange(count),
        handles,
        key,
        loss,
        turn(tables),
    )
