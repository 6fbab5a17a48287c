"""The cells of the scoreboard: a workload on an engine at a load, frozen in `cells.toml`."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from experiments.common._harness import data
from kvhorizon.models.performance.gpu import preset, tpot_target_s
from kvhorizon.models.performance.kv_pool import pool_blocks
from kvhorizon.models.performance.shape import builtin
from kvhorizon.models.performance.step_time import step_cost
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.readers import read_lengths, read_trace
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace, make_trace, window
from kvhorizon.state import EngineFacts

FILE = Path(__file__).parent / "cells.toml"
MEASURED = {
    "azure23_conv": "azure23_conv_h1.csv.gz",
    "azure23_code": "azure23_code_h1.csv.gz",
    "servegen_r1": "servegen_r1_am.csv.gz",
    "servegen_mlarge": "servegen_mlarge_d2.csv.gz",
    "servegen_bursty_mlarge": "servegen_bursty_mlarge_d3.csv.gz",
    "mooncake_conversation": "mooncake_conversation_h1.csv.gz",
    "mooncake_synthetic": "mooncake_synthetic_h1.csv.gz",
}
LENGTHS = {"sharegpt8k": "len_sharegpt8k.csv.gz", "arxiv_summ": "len_arxiv_summ.csv.gz"}
SYNTHETIC = ("chat", "reasoning", "mixed", "bursty", "shift", "rollout", "agentic")
SURGE_FROM_SHARE, SURGE_S, SURGE_FACTOR = 0.3, 60.0, 10.0
FULL_PROMPT_TOKENS = 7936
TINY_POOL_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the scoreboard."""

    workload: str
    model: str
    gpu: str
    tp: int
    load: float
    requests: int
    kind: str  # bound | free | stress
    twist: str = ""  # stress: tiny_pool | surge | full_prompts

    @property
    def name(self) -> str:
        engine = f"{self.model.split('-')[-1]}@{self.tp}x{self.gpu}"
        return f"{self.workload}|{engine}|{self.load}" + (f"|{self.twist}" if self.twist else "")


def frozen_cells() -> list[Cell]:
    """All cells, as frozen."""
    return [Cell(**row) for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["cell"]]


@lru_cache(maxsize=16)
def _file(name: str) -> Trace:
    return read_trace(data() / "traces" / name)


def _lengths(name: str, requests: int, seed: int) -> Trace:
    """A draw of a lengths-only trace, arriving as a Poisson process."""
    prompt, output = read_lengths(data() / "traces" / LENGTHS[name])
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(prompt), requests)
    arrival_s = np.cumsum(rng.exponential(1.0, requests))
    return make_trace(name, arrival_s - arrival_s[0], prompt[rows], output[rows])


def _first(trace: Trace, requests: int, seed: int) -> Trace:
    """A window of a measured trace; each seed begins elsewhere."""
    spare = max(len(trace) - requests, 0)
    cut = window(trace, (seed * 997) % (spare + 1), requests)
    return dataclasses.replace(cut, prefix_hashes=None, prefix_tokens=0, session=None)


def workload(name: str, requests: int, seed: int) -> Trace:
    """`requests` requests of a workload, arrivals as they come."""
    if name in MEASURED:
        return _first(_file(MEASURED[name]), requests, seed)
    if name in LENGTHS:
        return _lengths(name, requests, seed)
    return _first(synthesize(name, requests, seed), requests, 0)


def facts(cell: Cell, largest_tokens: int) -> EngineFacts:
    """The engine of a cell."""
    shape, gpu = builtin(cell.model), preset(cell.gpu)
    blocks = pool_blocks(shape, gpu, cell.tp)
    if cell.twist == "tiny_pool":
        blocks = int(TINY_POOL_FACTOR * largest_tokens / 16)
    return EngineFacts(
        total_blocks=blocks,
        block_size=16,
        max_num_seqs=gpu.max_num_seqs,
        max_num_batched_tokens=gpu.max_num_batched_tokens,
        max_model_len=min(shape.max_position, blocks * 16),
        cost=step_cost(shape, gpu, cell.tp),
    )


def tpot_target(cell: Cell) -> float:
    """Goodput target of time per output token [s]."""
    return tpot_target_s(preset(cell.gpu), builtin(cell.model))


def _fitting(trace: Trace, engine: EngineFacts) -> Trace:
    """Requests too large for the pool are cut to what fits, as a server with that context limit would."""
    most = engine.max_model_len - 1
    prompt = np.minimum(trace.prompt_tokens, int(0.75 * most))
    return dataclasses.replace(
        trace, prompt_tokens=prompt, output_tokens=np.minimum(trace.output_tokens, most - prompt)
    )


def _surge(arrival_s: np.ndarray) -> np.ndarray:
    """Arrivals ×10 for a minute: what would have come in ten minutes comes in one, and the rest moves up."""
    start = SURGE_FROM_SHARE * arrival_s[-1]
    squeezed = np.clip(arrival_s - start, 0.0, SURGE_S * SURGE_FACTOR)
    return arrival_s - squeezed * (1.0 - 1.0 / SURGE_FACTOR)


@lru_cache(maxsize=4)
def loaded(cell: Cell, seed: int) -> tuple[Trace, EngineFacts]:
    """Trace and engine of a cell: arrivals scaled to its load, twist applied. Kept for the policies that come next."""
    trace = workload(cell.workload, cell.requests, seed)
    if cell.twist == "full_prompts":
        trace = dataclasses.replace(trace, prompt_tokens=np.full(len(trace), FULL_PROMPT_TOKENS))
    engine = facts(cell, int((trace.prompt_tokens + trace.output_tokens).max()))
    trace = _fitting(trace, engine)
    at_once = dataclasses.replace(trace, arrival_s=np.zeros(len(trace)))
    if cell.workload == "rollout":
        return at_once, engine
    makespan_s = replay(Setup(at_once, engine), parse_policy("fcfs")).makespan_s
    span_s = makespan_s / cell.load
    arrival_s = trace.arrival_s * (span_s / max(float(trace.arrival_s[-1]), 1e-9))
    if cell.twist == "surge":
        arrival_s = _surge(arrival_s)
    return dataclasses.replace(trace, arrival_s=arrival_s), engine


def build(cell: Cell, seed: int, forecast: str = "noisy:0.6", reload_s: float = 0.0) -> Setup:
    """The replay of a cell; `reload_s` [s/token] > 0 lets preempted KV come back from host memory."""
    trace, engine = loaded(cell, seed)
    return Setup(trace, engine, forecast=forecast, seed=seed, reload_s_per_token=reload_s)
