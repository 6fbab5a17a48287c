"""Preemption counts of the simulated engine against those measured on a GPU (vLLM pull request 44594).

Measured: Qwen2.5-7B-Instruct on one GB200, 299 584 KV tokens, closed loop of 128 concurrent requests, 450 requests
of 1 000 ± 20 % prompt and 5 000 ± 20 % output tokens (uniform, end-of-sequence ignored), prefix caching off,
watermark 0 to 0.15. Assumed, since the report does not say: a token budget of 8 192 per step (vLLM's default for an
API server on a large GPU). Step times are those of an H200; counts do not depend on them, since a closed loop has no
clock of its own.

Error per watermark: |mean over seeds − measured| / max(10 % of measured, 2.5 standard deviations of one seed).
"""

from __future__ import annotations

import json

import numpy as np

from experiments.common._harness import Figures, Options, Targets, data, main, target
from kvhorizon.models.performance.gpu import preset
from kvhorizon.models.performance.shape import builtin
from kvhorizon.models.performance.step_time import step_cost
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.state import EngineFacts

REFERENCE = "vllm-pr-44594"
REQUESTS = 450
CONCURRENCY = 128
TOKEN_BUDGET = 8192
BLOCK_SIZE = 16
SEEDS = 40
TOLERATED_SHARE = 0.10


def workload(seed: int) -> Trace:
    """Uniform lengths of the measured run."""
    rng = np.random.default_rng(seed)
    return Trace(
        name=REFERENCE,
        sha256="",
        arrival_s=np.zeros(REQUESTS),
        prompt_tokens=rng.integers(800, 1201, REQUESTS),
        output_tokens=rng.integers(4000, 6001, REQUESTS),
        key=np.zeros(REQUESTS, np.int64),
    )


def engine(kv_tokens: int, max_num_seqs: int, max_model_len: int) -> EngineFacts:
    """The measured engine; one block of the pool is vLLM's null block."""
    return EngineFacts(
        total_blocks=kv_tokens // BLOCK_SIZE - 1,
        block_size=BLOCK_SIZE,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=TOKEN_BUDGET,
        max_model_len=max_model_len,
        cost=step_cost(builtin("qwen2.5-7b-instruct"), preset("h200")),
    )


def measure(options: Options) -> tuple[Figures, Targets]:
    """Mean count per watermark, its spread, and the error against the measured one."""
    runs = json.loads((data() / "calibration" / "preemption_refs.json").read_text(encoding="utf-8"))
    reference = next(run for run in runs if run["id"] == REFERENCE)
    facts = engine(reference["kv_tokens"], reference["max_num_seqs"], reference["max_model_len"])
    seeds = range(20 if options.quick else SEEDS)
    figures: dict[str, object] = {"token_budget": TOKEN_BUDGET, "seeds": len(seeds)}
    targets = {}
    for row, label in zip(reference["rows"], ("0", "0.02", "0.05", "0.10", "0.15"), strict=True):
        policy = parse_policy(f"watermark:{row['watermark']}")
        counts = [
            int(replay(Setup(workload(seed), facts, concurrency=CONCURRENCY), policy).preemptions.sum())
            for seed in seeds
        ]
        mean, spread, measured = float(np.mean(counts)), float(np.std(counts, ddof=1)), row["preemptions"]
        error = abs(mean - measured) / max(TOLERATED_SHARE * measured, 2.5 * spread)
        figures[f"w{label}"] = {"measured": measured, "mean": mean, "standard_deviation": spread}
        targets[f"preemptions_err_w{label}"] = target(error, "<=1")
    return figures, targets


if __name__ == "__main__":
    main("watermark_reference", 0, measure)
