"""Measured vLLM runs, and the simulated engine in their place.

Data: `calibration/vllm_measured` below KVHORIZON_DATA: three models on RTX PRO 6000 GPUs, vLLM 0.19, 300 requests that
arrive within 30 s (an open loop), 128 seats and 2 048 tokens per step and replica, async scheduling (its default). Per
request the times of arrival and of the first and last token; per second the prompt tokens (counted when a prompt yields
its first token) and output tokens of that second. KV use was not recorded, and the pools are far from full.

Replicas of a mixture of experts that share their experts step together: they are simulated as one engine with the
seats, the token budget and the GPUs of all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.common._harness import data
from kvhorizon.compiled.compiler import counting
from kvhorizon.models.performance.gpu import preset
from kvhorizon.models.performance.kv_pool import pool_blocks
from kvhorizon.models.performance.shape import ModelShape, builtin
from kvhorizon.sim.engine.advance import advance
from kvhorizon.sim.engine.arrays import DONE, NOW
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import start
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.solver.heuristic.scratch import new_scratch
from kvhorizon.state import EngineFacts, StepCost

FloatArray = NDArray[np.float64]

GPU = preset("rtx-pro-6000")
FCFS = parse_policy("fcfs")
BLOCK_SIZE = 16
MAX_MODEL_LEN = 32768  # none was set; no request comes near
MODELS = {
    "RTXPRO6000_Llama-3.1-8B": "llama-3.1-8b",
    "RTXPRO6000_Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "RTXPRO6000_Qwen3-32B": "qwen3-32b",
}


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """What was asked of the engine, and what it did."""

    shape: ModelShape
    replicas: int  # that step together
    gpus: int  # of all replicas
    max_num_seqs: int  # of all replicas
    max_num_batched_tokens: int  # of all replicas
    trace: Trace
    first_token_s: FloatArray  # (N,)
    last_token_s: FloatArray  # (N,)
    prompt_tokens: FloatArray  # (T,) by the end of each second, since the start
    output_tokens: FloatArray  # (T,) by the end of each second, since the start

    @property
    def half_s(self) -> int:
        """End of the half that may be fitted [s]."""
        return len(self.output_tokens) // 2

    def setup(self, cost: StepCost) -> Setup:
        """The simulated engine in place of the measured one."""
        seats, budget = self.max_num_seqs, self.max_num_batched_tokens
        pool = pool_blocks(self.shape, GPU, self.gpus, max_num_seqs=seats, max_num_batched_tokens=budget)
        facts = EngineFacts(pool, BLOCK_SIZE, seats, budget, MAX_MODEL_LEN, cost)
        return Setup(self.trace, facts, async_scheduling=True)


def load(name: str) -> MeasuredRun:
    """The run of files `name`_*; one of MODELS."""
    path = data() / "calibration" / "vllm_measured" / name
    asked = json.loads(path.with_name(f"{name}_meta.json").read_text(encoding="utf-8"))["engine_kwargs"]
    requests = pd.read_csv(path.with_name(f"{name}_requests.csv.gz"))
    seconds = pd.read_csv(path.with_name(f"{name}_timeseries.csv"))
    arrival_s, first_token_s, last_token_s = (
        requests[column].to_numpy(dtype=float, copy=True) for column in ("arrival_s", "first_token_s", "last_token_s")
    )
    prompt, output = (requests[c].to_numpy(dtype=np.int64, copy=True) for c in ("prompt_tokens", "output_tokens"))
    replicas = asked["data_parallel_size"]
    return MeasuredRun(
        shape=builtin(MODELS[name]),
        replicas=replicas,
        gpus=replicas * asked["tensor_parallel_size"],
        max_num_seqs=replicas * asked["max_num_seqs"],
        max_num_batched_tokens=replicas * asked["max_num_batched_tokens"],
        trace=Trace(name, "", arrival_s, prompt, output, np.zeros(len(requests), np.int64)),
        first_token_s=first_token_s,
        last_token_s=last_token_s,
        prompt_tokens=seconds.prompt_throughput.cumsum().to_numpy(),
        output_tokens=seconds.gen_throughput.cumsum().to_numpy(),
    )


@counting
def _walk(engine, curves, plugin, cost, scratch, until_s, rows):  # type: ignore[no-untyped-def]
    """Step by step to `until_s`, or the end; a row of time, prompt tokens and output tokens per step, how many rows."""
    columns, count, clock = engine.columns, engine.counters, engine.clock
    taken = 0
    while clock[NOW] < until_s and count[DONE] < len(columns.prompt):
        advance(engine, curves, plugin, cost, scratch, np.nextafter(clock[NOW], np.inf), 1 << 40, False)
        rows[taken, 0] = clock[NOW]
        for n in range(len(columns.prompt)):
            if columns.generated[n] > 0:
                rows[taken, 1] += columns.prompt[n]
                rows[taken, 2] += columns.generated[n]
        taken += 1
    return taken


def trajectory(run: MeasuredRun, cost: StepCost, until_s: float) -> FloatArray:
    """The simulated run up to the first step that ends at `until_s` or later.

    A row per step (S, 3): time at its end [s], prompt tokens with a first token so far, output tokens so far.
    """
    engine, forecast = start(run.setup(cost), FCFS)
    most = int(run.trace.output_tokens.sum() + run.trace.prompt_tokens.sum())  # every step computes a token
    rows = np.zeros((most, 3))
    scratch = new_scratch(len(run.trace), run.max_num_seqs)
    plugin = FCFS.plugin.at_work(len(run.trace), run.max_num_seqs, cost)
    return rows[: _walk(engine, forecast.curves, plugin, cost, scratch, until_s, rows)]


def by_second(steps: FloatArray, seconds: FloatArray) -> FloatArray:
    """Prompt and output tokens (T, 2) by the given times.

    Tokens appear at the end of a step; the staircase is drawn smooth, through the middle of its treads, so that a
    slightly different pace gives slightly different counts.
    """
    middle_s = np.concatenate([[0.0], 0.5 * (steps[:-1, 0] + steps[1:, 0])])
    tokens = np.concatenate([[[0.0, 0.0]], steps[:-1, 1:]])
    return np.column_stack([np.interp(seconds, middle_s, tokens[:, i]) for i in range(2)])
