"""The process that `starts` watches: two engines start in it, one data-parallel, and serve some requests each.

Run as `python -m experiments._starts_engine JSON`; prints one JSON object. What is to be broken is broken once vLLM has
made a scheduler of its own, since it needs a folder for the model and a process that looks at it.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.engine._plugin_driver import Drive, drive, workload
from experiments.engine._plugin_engine import Setup, make

REQUESTS = 12
STEPS = 4000  # far more than so many requests take


class Lines(logging.Handler):
    """What kvhorizon says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self.traces = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self.traces += record.exc_info is not None


def spoil(kind: dict[str, Any]) -> Any:
    """Break what is to be broken in this very process; the configuration of an engine that was made before."""
    config = make(Setup(plugin=False)).vllm_config
    if kind.get("temporary"):
        os.environ["TMPDIR"] = tempfile.tempdir = kind["temporary"]  # Python would look for another that it may write
    if kind.get("no_writes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if kind.get("no_child"):
        sys.executable = "/nonexistent/python"
    return config


def start(settings: dict[str, Any], data_parallel: int, plan_within_s: float) -> dict[str, Any]:
    """One engine, from its start to the end of its requests; with a limit, until a plan has come."""
    engine = drive(Setup(blocks=120, seats=8, step_s=None, data_parallel=data_parallel, settings=settings))
    plugin = engine.scheduler.kvhorizon
    serve(engine, "first")
    planned = plugin is not None and plan_within_s > 0 and plan_comes(engine, plan_within_s)
    if plugin is not None:
        plugin.stop()
    return {
        "data_parallel": data_parallel,
        "served": len(engine.ends) >= REQUESTS and not engine.scheduler.requests,
        "plugin": plugin is not None,
        "ladder": dict(plugin.ladder) if plugin is not None else {},
        "solver": type(plugin.session.solver).__name__ if plugin is not None else "",
        "errors": plugin.guard.total if plugin is not None else 0,
        "planned": planned,
    }


def put(state: Path, config: Any) -> None:
    """The files beside it are what an engine of this configuration finds in its state folder, anew for each engine."""
    from kvhorizon.adapter.forecasting.learner import state_folder

    place = state_folder(state, config)
    assert place is not None
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(state / "saved", place)


def serve(engine: Drive, name: str) -> None:
    """Some requests, to their end."""
    for request in workload(REQUESTS, seed=1, output=(5, 60)):
        request.request_id = f"{name}-{request.request_id}"
        engine.scheduler.add_request(request)
    for _ in range(STEPS):
        if not engine.busy:
            return
        engine.step()


def plan_comes(engine: Drive, within_s: float) -> bool:
    """Requests without end until a plan is followed."""
    deadline_s, number = time.monotonic() + within_s, 0
    while time.monotonic() < deadline_s:
        serve(engine, f"more-{(number := number + 1)}")
        if engine.scheduler.kvhorizon.plans.counts.total():
            return True
        time.sleep(1.0)  # the child compiles meanwhile
    return False


def main() -> None:
    kind = json.loads(sys.argv[1])
    lines = Lines()
    logging.getLogger("kvhorizon").addHandler(lines)
    config = spoil(kind)
    engines = []
    for data_parallel in (1, 2):
        for state in kind.get("states", [None]):
            settings = kind.get("settings", {})
            if state:
                settings = {**settings, "state": state}
                put(Path(state), config)
            engines.append(start(settings, data_parallel, kind.get("plan_within_s", 0.0)))
    print(json.dumps({"engines": engines, "lines": lines.said, "traces": lines.traces}), flush=True)


if __name__ == "__main__":
    main()
