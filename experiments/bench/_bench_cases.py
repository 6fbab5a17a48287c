"""The simulator's speed cases: which trace on which engine."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from kvhorizon.models.performance.gpu import preset
from kvhorizon.models.performance.kv_pool import pool_blocks
from kvhorizon.models.performance.shape import builtin
from kvhorizon.models.performance.step_time import step_cost
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.state import EngineFacts

SEED = 0
MODEL = "llama-3.1-8b"


class Case(NamedTuple):
    """One replay to be timed."""

    workload: str
    gpu: str
    rate: float  # arrivals [1/s]
    requests: int
    policy: str = "fcfs"
    prefix_caching: bool = False


CHAT_RATE = 12.0  # about 0.95 of what the engine completes
CASES = {
    "bound": Case("reasoning", "a100-40gb", 0.3, 20_000),  # long answers: KV-bound, above what the engine completes
    "fcfs": Case("chat", "a100-40gb", CHAT_RATE, 1_000_000),
    "prefix": Case("chat", "a100-40gb", CHAT_RATE, 100_000, prefix_caching=True),
    "agentic": Case("agentic", "a100-40gb", 2.0, 20_000, prefix_caching=True),
    "greedy": Case("chat", "a100-40gb", CHAT_RATE, 200_000, "kvhorizon:greedy"),
}
SYSTEM_PROMPTS, SYSTEM_HASHES, HASHED_TOKENS = 4, 8, 64  # what `chat` shares where prefixes are cached


def engine(gpu_name: str) -> EngineFacts:
    """The 8B model on one GPU."""
    shape, gpu = builtin(MODEL), preset(gpu_name)
    return EngineFacts(
        total_blocks=pool_blocks(shape, gpu, 1),
        block_size=16,
        max_num_seqs=gpu.max_num_seqs,
        max_num_batched_tokens=gpu.max_num_batched_tokens,
        max_model_len=shape.max_position,
        cost=step_cost(shape, gpu, 1),
    )


def with_system_prompts(trace: Trace) -> Trace:
    """Each request begins with one of a few system prompts of 512 tokens."""
    which = np.random.default_rng(SEED).integers(0, SYSTEM_PROMPTS, len(trace))
    shared = [np.arange(SYSTEM_HASHES) + 100 * prompt for prompt in range(SYSTEM_PROMPTS)]
    return dataclasses.replace(
        trace,
        prompt_tokens=trace.prompt_tokens + SYSTEM_HASHES * HASHED_TOKENS,
        prefix_hashes=tuple(shared[prompt] for prompt in which),
        prefix_tokens=HASHED_TOKENS,
    )


def build(case: Case, requests: int) -> Setup:
    """The replay of so many requests of a case."""
    trace = synthesize(case.workload, requests, SEED)
    span_s = requests / case.rate
    arrival_s = trace.arrival_s * (span_s / max(float(trace.arrival_s[-1]), 1e-9))
    if not case.prefix_caching:
        trace = dataclasses.replace(trace, prefix_hashes=None, prefix_tokens=0, session=None)
    elif trace.prefix_hashes is None:
        trace = with_system_prompts(trace)
    return Setup(
        dataclasses.replace(trace, arrival_s=arrival_s),
        engine(case.gpu),
        forecast="noisy:0.6",
        prefix_caching=case.prefix_caching,
    )
