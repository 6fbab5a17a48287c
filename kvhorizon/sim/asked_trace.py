"""The requests that a what-if is about: a trace file, a recording, or a synthetic workload."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.recording.read import Recording, is_recording, read_recording
from kvhorizon.sim.trace import Trace
from kvhorizon.sim.traces import limit, read_trace, recorded_trace
from kvhorizon.sim.workloads import synthesize

SYNTHETIC = "synthetic:"
SYNTHETIC_REQUESTS = 2000


def load_trace(name: str, most: int | None, seed: int) -> Trace:
    """A trace file, or a synthetic workload; its first `most` requests. Raises InputError."""
    if most is not None and most < 1:
        raise InputError("limit", most, "must be >= 1")
    if name.startswith(SYNTHETIC):
        return synthesize(name.removeprefix(SYNTHETIC), most or SYNTHETIC_REQUESTS, seed)
    trace = read_trace(Path(name))
    return trace if most is None else limit(trace, most)


def recording_of(name: str) -> Recording | None:
    """The recording of that name; None for anything else. Raises InputError for a broken one."""
    if name.startswith(SYNTHETIC) or not is_recording(Path(name)):
        return None
    return read_recording(Path(name))


def trace_of(recording: Recording | None, name: str, most: int | None, seed: int) -> Trace:
    """The recording as a trace, or what else the name stands for; its first `most` requests. Raises InputError."""
    if recording is None:
        return load_trace(name, most, seed)
    if most is not None and most < 1:
        raise InputError("limit", most, "must be >= 1")
    whole = recorded_trace(Path(name).name.removesuffix(".parquet"), recording)
    return whole if most is None else limit(whole, most)


def tenants_of(recording: Recording | None) -> tuple[str, ...]:
    """Names in the order in which a recording's trace numbers them."""
    if recording is None:
        return ()
    return tuple(dict.fromkeys(recording.texts["tenant"][n] for n in np.flatnonzero(recording.replayable)))
