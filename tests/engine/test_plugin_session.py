"""The scheduler plugin with a solver of its own beside a live scheduler: plans come, and nothing depends on them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine._plugin_driver import Drive, check_whole, drive, workload
from experiments.engine._plugin_engine import Setup
from kvhorizon.adapter.plugin import Plugin

SETUP = Setup(blocks=400, seats=24, step_s=None, settings={"mode": "control"})
GONE_WITHIN_S = 2.0


def run_until(engine: Drive, reached: Callable[[], bool], limit_s: float) -> None:
    """Steps on the real clock, with the time that a small model would take."""
    deadline_s = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline_s, (engine.scheduler.kvhorizon.session.solver.counts, len(engine.steps))
        engine.step()
        time.sleep(0.002)


def session_state(plugin: Plugin) -> str:
    """As it is shown."""
    assert plugin.telemetry is not None
    plugin.telemetry.publisher.publish()
    (family,) = (one for one in plugin.telemetry.publisher.registry.collect() if one.name == "kvhorizon_session")
    return next(sample.labels["state"] for sample in family.samples if sample.value == 1.0)


def test_plans_come_and_a_killed_solver_is_replaced() -> None:
    engine = drive(SETUP)
    requests = workload(300, seed=3, output=(2000, 4000))
    for request in requests:
        engine.scheduler.add_request(request)
    plugin = engine.scheduler.kvhorizon
    solver, counts = plugin.session.solver, plugin.plans.counts
    run_until(engine, lambda: counts["program"] + counts["greedy"] >= 3, limit_s=180.0)
    assert plugin.ladder["plan"] > 0

    os.kill(solver.child.pid, signal.SIGKILL)
    run_until(engine, lambda: solver.counts["crashed"] >= 1, limit_s=20.0)
    run_until(engine, lambda: session_state(plugin) == "failing", limit_s=20.0)
    before = counts.total()
    run_until(engine, lambda: solver.counts["restarts"] >= 1 and counts.total() > before, limit_s=90.0)
    run_until(engine, lambda: session_state(plugin) == "planning", limit_s=20.0)
    assert plugin.guard.total == 0

    child = solver.child.pid
    for request in requests:
        engine.abort(request.request_id)
    check_whole(engine.scheduler, requests, SETUP.blocks)
    engine.scheduler.shutdown()
    assert not alive(child)


ENGINE = """
import time
from experiments.engine._plugin_driver import drive, workload
from experiments.engine._plugin_engine import Setup
engine = drive(Setup(step_s=None, settings={}))
for request in workload(100, seed=4, output=(2000, 4000)):
    engine.scheduler.add_request(request)
solver = engine.scheduler.kvhorizon.session.solver
told = False
while True:
    engine.step()
    time.sleep(0.002)
    if solver.child is not None and not told:
        told = True
        print(solver.child.pid, flush=True)
"""


def test_a_killed_engine_leaves_no_child() -> None:
    with subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert alive(child)
        process.kill()
    killed_s = time.monotonic()
    while alive(child):
        assert time.monotonic() - killed_s < GONE_WITHIN_S
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
