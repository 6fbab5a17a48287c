"""Two engines of one data-parallel deployment, each in a process of its own, with one solver child between them."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from test_plugin_session import alive

LIMIT_S = 600.0  # two engines and two children start one after another, on a busy machine

ENGINE = """
import json, os, sys, time
from experiments.engine._plugin_driver import drive, workload
from experiments.engine._plugin_engine import Setup
rank = int(sys.argv[1])
engine = drive(Setup(blocks=400, seats=24, step_s=None, data_parallel=2, settings={"mode": "control"}))
for request in workload(300, seed=rank, output=(2000, 4000)):
    engine.scheduler.add_request(request)
plugin = engine.scheduler.kvhorizon
solver, told = plugin.session.solver, 0.0
while True:
    engine.step()
    time.sleep(0.005)
    if time.monotonic() - told > 0.2:
        told = time.monotonic()
        child = solver.child
        print(json.dumps({
            "kind": type(solver).__name__, "owns": solver.owns, "child": child.pid if child else None,
            "plans": plugin.plans.counts.total(), "errors": plugin.guard.total,
        }), flush=True)
"""


class Engine:
    """One process, and what it last said."""

    def __init__(self, rank: int, folder: Path) -> None:
        environment = {**os.environ, "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(rank)], stdout=subprocess.PIPE, text=True, env=environment
        )
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self._said.put(json.loads(line))

    def wait(self, limit_s: float, **wanted: Any) -> dict[str, Any]:
        """What it says once `wanted` holds: a value to equal, or a number of plans to reach."""
        deadline_s = time.monotonic() + limit_s
        while True:
            said = self._said.get(timeout=max(deadline_s - time.monotonic(), 0.01))
            if all(said[key] >= value if key == "plans" else said[key] == value for key, value in wanted.items()):
                return said


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[Engine]]:
    both = [Engine(rank, tmp_path) for rank in (0, 1)]
    yield both
    for engine in both:
        engine.process.kill()
        engine.process.wait()


def test_one_child_serves_both_and_outlives_neither_for_long(engines: list[Engine]) -> None:
    said = [engine.wait(LIMIT_S, plans=3) for engine in engines]
    assert [one["kind"] for one in said] == ["HostSolver"] * 2
    assert sorted(one["owns"] for one in said) == [False, True]
    owner = next(place for place, one in enumerate(said) if one["owns"])
    child, other = said[owner]["child"], engines[1 - owner]
    assert alive(child)
    os.kill(engines[owner].process.pid, signal.SIGKILL)
    engines[owner].process.wait()
    heir = other.wait(LIMIT_S, owns=True)
    deadline_s = time.monotonic() + 5.0
    while alive(child):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    after = other.wait(LIMIT_S, plans=heir["plans"] + 2)
    assert after["child"] not in (None, child)
    assert after["errors"] == 0
