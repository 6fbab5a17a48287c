"""Small engines and random traces for the simulator's tests."""

import numpy as np

from kvhorizon.sim.workload.trace import Trace
from kvhorizon.state import EngineFacts, StepCost

COST = StepCost(
    fixed_s=1e-3,
    weights_s=9.7e-3,
    linear_s_per_token=6.65e-5,
    attention_s_per_pair=2.9e-9,
    kv_read_s_per_token=8e-8,
    sequence_s=1e-5,
    flops_per_token=1.5e10,
    flops_per_pair=5.2e5,
)


def facts(total_blocks: int = 200, block_size: int = 16, max_num_seqs: int = 16, batched: int = 256) -> EngineFacts:
    return EngineFacts(
        total_blocks=total_blocks,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=batched,
        max_model_len=total_blocks * block_size,
        cost=COST,
    )


def trace(arrival_s: list[float], prompt: list[int], output: list[int]) -> Trace:
    size = len(arrival_s)
    return Trace(
        name="hand",
        sha256="",
        arrival_s=np.array(arrival_s, np.float64),
        prompt_tokens=np.array(prompt, np.int64),
        output_tokens=np.array(output, np.int64),
        key=np.zeros(size, np.int64),
    )


def random_trace(seed: int, size: int, longest: int, rate: float) -> Trace:
    """`size` requests whose prompt and output both reach up to `longest` / 2 tokens."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1.0 / rate, size))
    half = longest // 2
    return trace(
        list(arrival - arrival[0]),
        list(np.clip(rng.lognormal(np.log(half / 4), 1.0, size), 1, half).astype(int)),
        list(np.clip(rng.lognormal(np.log(half / 3), 1.0, size), 1, half).astype(int)),
    )
