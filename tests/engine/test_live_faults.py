"""A short run of `experiments.faults_live`: a few faults of each kind on one live engine, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

CHOSEN = (
    "solver killed",
    "solver stopped",
    "solver answers garbage",
    "our code raising: before_schedule",
    "disk full for the recorder",
    "flood of 5 000 arrivals",
)
RUN = f"""
import json, sys
from experiments.live import faults_live
from experiments.live.faults import _live_core
from experiments.common._harness import Options

if __name__ == "__main__":
    chosen = {CHOSEN!r}
    _live_core.FLOOD = 500
    keep = lambda faults: tuple(one for one in faults if (one.name + ": " * bool(one.part) + one.part) in chosen)
    for name in ("CHILD_FAULTS", "SERVICE_FAULTS", "ENGINE_FAULTS"):
        setattr(faults_live, name, keep(getattr(faults_live, name)))
    faults, end = faults_live.in_process(Options(quick=True))
    print("FOUND " + json.dumps([faults, end]), flush=True)
"""


@pytest.fixture(scope="module")
def found() -> tuple[dict, dict]:
    done = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, env=dict(os.environ), check=False, timeout=500
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    faults, end = json.loads(lines[-1].removeprefix("FOUND "))
    return faults, end


@pytest.mark.parametrize("fault", CHOSEN)
def test_no_request_is_lost_and_the_plugin_comes_back(found: tuple[dict, dict], fault: str) -> None:
    row = found[0][fault]
    assert row["lost"] == 0
    assert row["recovery_s"] < 120.0


def test_the_engine_is_whole_afterwards(found: tuple[dict, dict]) -> None:
    end = found[1]
    assert end["finished"] > 500
    assert (end["lost"], end["blocks_missing"], end["rows_left"], end["hidden"]) == (0, 0, 0, 0)
    assert end["plugin_errors"]["before_schedule"] > 0  # the planted ones
    assert end["ladder"]["plan"] > 0
    assert end["recorded"] > 400
    assert end["recordings_lost"] == 0
