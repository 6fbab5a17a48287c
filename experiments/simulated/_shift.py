"""What an instant change of the mix costs: throughput against the engine with a watermark of 2 %.

Requests are `workloads`' short and long ones; at the middle of the trace the share of the long changes ×10, up or down,
so that what was learned is wrong at once. Loads are shares of what the engine does with all requests at hand.

A finite trace ends with whichever long request was begun last, and that alone moves its makespan by a percent or two
either way, whoever orders requests. Two controls show how much: forecasts that know all lengths, which no change can
surprise, and the same requests without a change (the middle share throughout).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.common._cells import Cell, facts
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.synthetic import LONG_OUTPUT, LONG_PROMPT, SHORT_OUTPUT, SHORT_PROMPT
from kvhorizon.sim.workload.trace import Trace, make_trace

SHARES = ((0.05, 0.5), (0.5, 0.05))
ENGINES = (("llama-3.1-8b", "a100-40gb", 800), ("llama-3.1-8b", "h100-80gb", 2400))
LOADS = (0.8, 1.2)
KNOBS = ("means", "balanced", "strict")


@dataclass(frozen=True, slots=True)
class Shift:
    """One cell; `before` and `after` are the same in a control."""

    before: float  # share of long requests
    after: float
    model: str
    gpu: str
    requests: int
    load: float


def shifts(quick: bool) -> list[Shift]:
    """All cells; two small ones where `quick`."""
    if quick:
        return [Shift(*share, "llama-3.1-8b", "a100-40gb", 200, 1.2) for share in SHARES]
    return [Shift(*share, *engine, load) for share in SHARES for engine in ENGINES for load in LOADS]


def unchanged(quick: bool) -> list[Shift]:
    """The cells without a change."""
    share = sum(SHARES[0]) / 2.0
    found = [dataclasses.replace(shift, before=share, after=share) for shift in shifts(quick)]
    return list(dict.fromkeys(found))


def trace_of(shift: Shift, seed: int) -> Trace:
    """Requests of a cell, all without tenants; Poisson arrivals."""
    rng = np.random.default_rng([seed, 77])
    size = shift.requests
    long = rng.random(size) < np.where(np.arange(size) < size // 2, shift.before, shift.after)
    prompt = np.where(long, LONG_PROMPT.draw(rng, size), SHORT_PROMPT.draw(rng, size))
    output = np.where(long, LONG_OUTPUT.draw(rng, size), SHORT_OUTPUT.draw(rng, size))
    arrival_s = np.cumsum(rng.exponential(1.0, size))
    return make_trace("shift10", arrival_s - arrival_s[0], prompt, output)


def ratios(shift: Shift, seed: int, forecasts: Sequence[str]) -> dict[tuple[str, str], float]:
    """Throughput of each knob's greedy with each forecast, over the watermark's."""
    trace = trace_of(shift, seed)
    cell = Cell("shift", shift.model, shift.gpu, 1, shift.load, shift.requests, "bound")
    engine = facts(cell, int((trace.prompt_tokens + trace.output_tokens).max()))
    at_once = dataclasses.replace(trace, arrival_s=np.zeros(len(trace)))
    span_s = replay(Setup(at_once, engine), parse_policy("fcfs")).makespan_s / shift.load
    scaled = dataclasses.replace(trace, arrival_s=trace.arrival_s * (span_s / trace.arrival_s[-1]))
    setup = Setup(scaled, engine, seed=seed)
    reference_s = replay(setup, parse_policy("watermark:0.02")).makespan_s
    return {
        (forecast, knob): reference_s
        / replay(dataclasses.replace(setup, forecast=forecast), parse_policy(f"kvhorizon:greedy/{knob}")).makespan_s
        for forecast in forecasts
        for knob in KNOBS
    }


def table(cells: Sequence[Shift], seeds: Sequence[int], forecasts: Sequence[str]) -> dict[str, list[float]]:
    """Ratios, one per seed, by cell, forecast and knob."""
    found: dict[str, list[float]] = defaultdict(list)
    for shift in cells:
        for seed in seeds:
            for (forecast, knob), ratio in ratios(shift, seed, forecasts).items():
                found[f"{shift.before:g}->{shift.after:g}|{shift.gpu}|{shift.load}|{forecast}|{knob}"].append(ratio)
    return dict(found)


def summary(found: dict[str, list[float]]) -> dict[str, float]:
    """Over all replays: the worst, their mean and deviation; and the mean over seeds of the worst cell."""
    values = np.array(list(found.values()))  # (cells, seeds)
    return {
        "worst": float(values.min()),
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "worst_cell_mean": float(values.mean(axis=1).min()),
    }
