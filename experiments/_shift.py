"""What an instant change of the mix costs: throughput against the engine with a watermark of 2 %.

Requests are `workloads`' short and long ones; at the middle of the trace the share of the long changes ×10, up or down,
so that what was learned is wrong at once. Loads are shares of what the engine does with all requests at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments._cells import Cell, facts
from kvhorizon.sim.policies import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.trace import Trace
from kvhorizon.sim.traces import make_trace
from kvhorizon.sim.workloads import LONG_OUTPUT, LONG_PROMPT, SHORT_OUTPUT, SHORT_PROMPT

SHARES = ((0.05, 0.5), (0.5, 0.05))
ENGINES = (("llama-3.1-8b", "a100-40gb", 800), ("llama-3.1-8b", "h100-80gb", 2400))
LOADS = (0.8, 1.2)
KNOBS = ("means", "balanced", "strict")


@dataclass(frozen=True, slots=True)
class Shift:
    """One cell."""

    before: float  # share of long requests
    after: float
    model: str
    gpu: str
    requests: int
    load: float


def shifts(quick: bool) -> list[Shift]:
    """All cells; two small ones where `quick`."""
    cells = [
        Shift(before, after, model, gpu, requests, load)
        for before, after in SHARES
        for model, gpu, requests in ENGINES
        for load in LOADS
    ]
    return [Shift(*share, "llama-3.1-8b", "a100-40gb", 200, 1.2) for share in SHARES] if quick else cells


def trace_of(shift: Shift, seed: int) -> Trace:
    """Requests of a cell, all without tenants; Poisson arrivals."""
    rng = np.random.default_rng([seed, 77])
    size = shift.requests
    long = rng.random(size) < np.where(np.arange(size) < size // 2, shift.before, shift.after)
    prompt = np.where(long, LONG_PROMPT.draw(rng, size), SHORT_PROMPT.draw(rng, size))
    output = np.where(long, LONG_OUTPUT.draw(rng, size), SHORT_OUTPUT.draw(rng, size))
    arrival_s = np.cumsum(rng.exponential(1.0, size))
    return make_trace("shift10", arrival_s - arrival_s[0], prompt, output)


def ratios(shift: Shift, seed: int, forecast: str) -> dict[str, float]:
    """Throughput of each knob's greedy with a forecast, over the watermark's."""
    trace = trace_of(shift, seed)
    cell = Cell("shift", shift.model, shift.gpu, 1, shift.load, shift.requests, "bound")
    engine = facts(cell, int((trace.prompt_tokens + trace.output_tokens).max()))
    at_once = make_trace("shift10", np.zeros(len(trace)), trace.prompt_tokens, trace.output_tokens)
    span_s = replay(Setup(at_once, engine), parse_policy("fcfs")).makespan_s / shift.load
    arrival_s = trace.arrival_s * (span_s / trace.arrival_s[-1])
    setup = Setup(
        make_trace("shift10", arrival_s, trace.prompt_tokens, trace.output_tokens), engine, forecast=forecast, seed=seed
    )
    tokens = int((trace.prompt_tokens + trace.output_tokens).sum())
    reference = tokens / replay(setup, parse_policy("watermark:0.02")).makespan_s
    return {
        knob: tokens / replay(setup, parse_policy(f"kvhorizon:greedy/{knob}")).makespan_s / reference for knob in KNOBS
    }
