"""The requests that a what-if is about: a trace file, a recording, or a synthetic workload."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.recording.read import Recording, is_recording, read_recording
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.readers import read_trace, recorded_trace
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace, limit
from kvhorizon.state import EngineFacts

SYNTHETIC = "synthetic:"
SYNTHETIC_REQUESTS = 2000


def load_trace(name: str, most: int | None, seed: int) -> Trace:
    """A trace file, or a synthetic workload; its first `most` requests. Raises InputError."""
    return trace_of(None, name, most, seed)


def recording_of(name: str) -> Recording | None:
    """The recording of that name; None for anything else. Raises InputError for a broken one."""
    if name.startswith(SYNTHETIC) or not is_recording(Path(name)):
        return None
    return read_recording(Path(name))


def trace_of(recording: Recording | None, name: str, most: int | None, seed: int) -> Trace:
    """The recording as a trace, or what else the name stands for; its first `most` requests. Raises InputError."""
    if most is not None and most < 1:
        raise InputError("limit", most, "must be >= 1")
    if name.startswith(SYNTHETIC):
        return synthesize(name.removeprefix(SYNTHETIC), most or SYNTHETIC_REQUESTS, seed)
    path = Path(name)
    whole = read_trace(path) if recording is None else recorded_trace(path.name.removesuffix(".parquet"), recording)
    return whole if most is None else limit(whole, most)


def check_fits(trace: Trace, facts: EngineFacts) -> None:
    """Raises InputError if any request could never finish in the pool or exceeds the model's context."""
    tokens = trace.prompt_tokens + trace.output_tokens
    largest = int(np.argmax(tokens))
    most = min(facts.total_blocks * facts.block_size, facts.max_model_len)
    if tokens[largest] > most:
        raise InputError(
            f"request {largest}",
            int(tokens[largest]),
            f"prompt and output tokens must fit into the pool and context, <= {most}",
        )


def at_load(trace: Trace, facts: EngineFacts, load: float | None, prefix_caching: bool = False) -> Trace:
    """Arrivals rescaled to `load` times what first-come-first-served completes when all requests arrive at once."""
    last = float(trace.arrival_s[-1])
    if load is None or last <= 0.0:
        return trace
    together = dataclasses.replace(trace, arrival_s=np.zeros(len(trace)))
    whole = replay(Setup(together, facts, prefix_caching=prefix_caching), parse_policy("fcfs"))
    span_s = whole.makespan_s / load
    return dataclasses.replace(trace, arrival_s=trace.arrival_s * (span_s / last))


def capped(trace: Trace, most: int | None) -> Trace:
    """The trace as if clients had asked for at most so many output tokens. Raises InputError."""
    if most is None:
        return trace
    if most < 1:
        raise InputError("max-output-tokens", most, "must be >= 1")
    return dataclasses.replace(trace, output_tokens=np.minimum(trace.output_tokens, most))
