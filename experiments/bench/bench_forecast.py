"""What forecasts cost: profiles of a busy engine, and learning from a request that finished.

curves_ms         survival and block profiles (mean and variance) of 512 running and 64 new requests over 32 buckets,
                  curves looked up by key included; median of many
finish_update_us  taking in one finished request by itself, curves renewed as they become due; median of
                      means over 100
learned_us        the group of one request by a model of 240 trees, in a batch of 64
arrival_us        what the plugin does with such a model when one request arrives: its features, those of the hashes of
                  2048 prompt tokens in blocks of 16 among them, and its group; median
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.adapter.forecasting.groups import Groups
from kvhorizon.models.forecast.bins import UNIT_TOKENS
from kvhorizon.models.forecast.growth import Growth, block_profile, sample_steps, survival_profile
from kvhorizon.models.forecast.history.chains import length_chain
from kvhorizon.models.forecast.history.guarded import GuardedHistory
from kvhorizon.models.forecast.learned.features import FEATURES, Inputs
from kvhorizon.models.forecast.learned.learned import LearnedModel
from kvhorizon.models.forecast.learned.trees import Trees, predict
from kvhorizon.models.forecast.survival import Curves

SEED = 0
RUNNING, NEW, BUCKETS = 512, 64, 32
TENANTS, REQUESTS = 30, 6000
CHUNK = 100  # finished requests, so that renewing curves is in each by its share


def _history(rng: np.random.Generator) -> tuple[GuardedHistory, np.ndarray, np.ndarray]:
    tenant = rng.integers(0, TENANTS, REQUESTS)
    chains = length_chain(tenant, rng.integers(10, 8000, REQUESTS))
    lengths = np.maximum(1, rng.lognormal(4 + tenant % 4, 0.8)).astype(np.int64)
    history = GuardedHistory(128)
    history.learn(chains[:2000], lengths[:2000])
    return history, chains, lengths


def _finish_us(history: GuardedHistory, chains: np.ndarray, lengths: np.ndarray, chunks: int) -> float:
    """Mean of a chunk of requests learned one by one, median over chunks; the first ones compile and are left out."""
    means = []
    for first in range(2000, 2000 + (chunks + 2) * CHUNK, CHUNK):
        begin = time.perf_counter()
        for n in range(first, first + CHUNK):
            history.learn(chains[n : n + 1], lengths[n : n + 1])
        means.append((time.perf_counter() - begin) / CHUNK * 1e6)
    return float(np.median(means[2:]))


def _profiles(history: GuardedHistory, chains: np.ndarray, rng: np.random.Generator) -> Callable[[], None]:
    size = RUNNING + NEW
    generated = np.concatenate([rng.integers(0, 500, RUNNING), np.zeros(NEW, np.int64)])
    held, limit = (1000 + generated).astype(np.float64), np.full(size, 8192)
    steps, rows = sample_steps(1024, BUCKETS), np.arange(size)
    alive, mean, variance = np.zeros((3, size, BUCKETS))
    scale, shared = np.full(size, UNIT_TOKENS), np.zeros(size)

    def work() -> None:
        curves = Curves(history.survival, history.residual, history.rows_of(chains[:size]), scale)
        survival_profile(curves, rows, generated, limit, steps, 1.0, alive)
        block_profile(alive, held, shared, Growth(steps, 1.0, 16, 1e9), mean, variance)

    return work


def _trees(rng: np.random.Generator, count: int = 240, leaves: int = 8) -> Trees:
    """Complete trees with random splits."""
    inner = leaves - 1
    nodes = inner + leaves
    at = np.arange(nodes)
    base = np.repeat(np.arange(count) * nodes, nodes)
    left, right = (np.tile(np.where(at < inner, 2 * at + side, -1), count) for side in (1, 2))
    feature = np.tile(np.where(at < inner, at % len(FEATURES), -1), count)
    chosen = feature >= 0
    return Trees(
        np.arange(count) * nodes,
        np.arange(count) % 3,
        feature,
        rng.random(count * nodes),
        np.where(chosen, base + left, -1),
        np.where(chosen, base + right, -1),
    )


def _asking(trees: Trees, rng: np.random.Generator, count: int) -> Callable[[], None]:
    """One more of so many requests arrives each time; half of its prompt was there before."""
    centres = np.sort(rng.random((32, 3)) * 80.0, axis=1)
    inputs = Inputs(prefix_tokens=16, session=True, hour=True, sampling=True)
    seeds = np.array([[0, 100]])
    groups = Groups(LearnedModel(trees, np.zeros(3), centres, np.zeros(32, np.int64), seeds, {}, inputs), "bench")
    coming = iter([_request(n) for n in range(count)])
    return lambda: groups.arrived(next(coming), 0.0, 1e12)


def _request(n: int) -> SimpleNamespace:
    said = {"tenant": f"t{n % TENANTS}"}
    return SimpleNamespace(
        request_id=str(n),
        arrival_time=0.1 * n,
        num_prompt_tokens=2048,
        block_hashes=[f"{n if block >= 64 else 0} {block}".encode() for block in range(128)],
        sampling_params=SimpleNamespace(temperature=1.0, stop=[], min_tokens=0, extra_args=said),
        structured_output_request=None,
    )


def _median_s(work: Callable[[], object], count: int) -> float:
    work()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def measure(options: Options) -> tuple[Figures, Targets]:
    """Costs on one core."""
    rng = np.random.default_rng(SEED)
    history, chains, lengths = _history(rng)
    finish_us = _finish_us(history, chains, lengths, 5 if options.quick else 35)
    curves_ms = 1e3 * _median_s(_profiles(history, chains, rng), 30 if options.quick else 300)
    trees, features, out = _trees(rng), rng.random((64, len(FEATURES))), np.zeros((64, 3))
    learned_us = 1e6 * _median_s(lambda: predict(trees, features, out), 30) / 64
    arrival_us = 1e6 * _median_s(_asking(trees, rng, 1001), 1000)
    return {"requests": RUNNING + NEW, "buckets": BUCKETS}, {
        "curves_ms": target(curves_ms, "<=1"),
        "finish_update_us": target(finish_us, "<=20"),
        "learned_us": target(learned_us, "<=50"),
        "arrival_us": target(arrival_us, "<=50"),
    }


if __name__ == "__main__":
    main("bench_forecast", SEED, measure)
