"""One hour of load on a live engine with the plugin and its solver child: does anything grow?

`python -m experiments.soak` takes an hour, `--quick` a minute; `KVHORIZON_SOAK_S` sets another length. Requests come,
are served, evicted, aborted; every SAMPLE_S the process is looked at. Growth is the difference of the means of the last
and the second quarter of the samples: the first quarter fills caches and bounded logs. On a CPU vLLM alone grows by
300 MB in its first minute, as it meets batches of ever new sizes, and goes on growing; so an engine without the plugin
is under the same load at the same time, in a process of its own, and `memory_beyond_plain_mb` is what ours grew by
more than it. Needs `make engine`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from experiments.common._harness import Options, main, target
from experiments.live.faults._live_core import LiveCore, wait_for_plans

LENGTH_S, QUICK_LENGTH_S = 3600.0, 60.0
SAMPLE_S, QUICK_SAMPLE_S = 15.0, 1.0
ABORT_EVERY = 40  # rounds
START_TIMEOUT_S = 240.0
PLAIN = {"mode": "off", "local_only": True}  # what the plugin is compared with
LIMITS = {  # growth from the second quarter to the last
    "memory_beyond_plain_mb": "<=10",
    "solver_memory_mb": "<=10",
    "files": "<=0.5",
    "threads": "<=0.5",
    "rows": "<=0",  # of requests that are gone
    "tracked": "<=5",
    "objects_k": "<=5",
}


def look(live: LiveCore, own: psutil.Process) -> dict[str, float]:
    """The process, its solver, and what the plugin keeps per request."""
    plugin = live.plugin
    child = getattr(plugin.session.solver, "child", None) if plugin.session is not None else None
    try:
        solver_mb = psutil.Process(child.pid).memory_info().rss / 2**20 if child is not None else float("nan")
    except psutil.NoSuchProcess:
        solver_mb = float("nan")
    gc.collect()
    return {
        "memory_mb": own.memory_info().rss / 2**20,
        "solver_memory_mb": solver_mb,
        "files": own.num_fds(),
        "threads": threading.active_count(),
        "rows": len(set(plugin.rows.slot_of) - set(live.scheduler.requests)),
        "tracked": plugin.accounting.tracked,
        "objects_k": len(gc.get_objects()) / 1000.0,
    }


def load(live: LiveCore, length_s: float, sample_s: float) -> list[dict[str, float]]:
    """Serve for so long; a look every `sample_s`."""
    own, chance = psutil.Process(), random.Random(0)
    begin_s, due_s, rounds, samples = time.monotonic(), 0.0, 0, []
    while time.monotonic() - begin_s < length_s:
        live.under_load(1)
        rounds += 1
        if rounds % ABORT_EVERY == 0:
            live.abort([chance.choice(list(live.wanted))])
        if time.monotonic() - begin_s >= due_s:
            due_s += sample_s
            samples.append(look(live, own))
    return samples


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """Of each column that was seen, from the second quarter to the last."""
    quarter = max(len(samples) // 4, 1)
    parts = samples[quarter : 2 * quarter], samples[-quarter:]
    before, after = ({name: np.array([one[name] for one in part]) for name in samples[0]} for part in parts)
    return {name: _mean(after[name]) - _mean(before[name]) for name in samples[0]}


def _mean(values: NDArray[np.float64]) -> float:
    """Of those that are known; NaN of none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def sample_s(length_s: float) -> float:
    """Seconds between two looks."""
    return QUICK_SAMPLE_S if length_s < 600 else SAMPLE_S


def _plain(length_s: float, answer: Connection) -> None:
    live = LiveCore(PLAIN)
    samples = load(live, length_s, sample_s(length_s))
    live.drain()
    memory_mb = [one["memory_mb"] for one in samples]
    grown_mb = growth(samples)["memory_mb"]
    answer.send({"growth_mb": grown_mb, "first_mb": memory_mb[0], "last_mb": memory_mb[-1], "finished": live.finished})
    live.close()


class Beside:
    """An engine that is vLLM's own under the same load, in another process."""

    def __init__(self, length_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._answer, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_plain, args=(length_s, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> dict[str, Any]:
        """What became of it; raises EOFError where it died."""
        found: dict[str, Any] = self._answer.recv()
        self._process.join()
        return found


def measure(options: Options) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Serve, look, compare."""
    length_s = float(os.environ.get("KVHORIZON_SOAK_S", QUICK_LENGTH_S if options.quick else LENGTH_S))
    beside = Beside(length_s)
    live = LiveCore()
    wait_for_plans(live, START_TIMEOUT_S)
    child = live.plugin.session.solver.child if live.plugin.session is not None else None
    folder = Path(child.address.removeprefix("unix:")).parent if child is not None else None
    samples = load(live, length_s, sample_s(length_s))
    live.drain()
    grown, plugin, plain = growth(samples), live.plugin, beside.result()
    grown["memory_beyond_plain_mb"] = grown["memory_mb"] - plain["growth_mb"]
    figures = {
        "length_s": length_s,
        "finished": live.finished,
        "preemptions": plugin.accounting.total.preemptions,
        "first": samples[0],
        "last": samples[-1],
        "growth": grown,
        "plain": plain,
        "plugin_errors": plugin.guard.total + plugin.account_guard.total,
        "ladder": dict(plugin.ladder),
        "rows_left": len(plugin.rows.slot_of),
        "samples": len(samples),
    }
    live.close()
    figures["left_behind"] = int(folder is not None and folder.exists())
    targets = {name: target(grown[name], limit) for name, limit in LIMITS.items()}
    targets["lost_requests"] = target(len(live.lost), "<=0")
    return figures, targets


if __name__ == "__main__":
    main("soak", 0, measure)
