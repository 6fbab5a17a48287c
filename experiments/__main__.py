"""Rebuild the evaluation: every experiment of `README.md`, one after the other.

`python -m experiments` takes hours and keeps its results and figures; `--quick` is a smoke run of each, in minutes,
that keeps nothing and begins no experiment after QUICK_S. What cannot run here is skipped, loudly. One that fails does
not keep the others from running, but makes the exit status 1; a target that is missed is a result. `--stale` runs
nothing: it lists the kept results that are older than the code, and the exit status is 1 where there are any.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from experiments._house.tree import Tree
from experiments.common._sources import ROOT, stale_results

QUICK_S = 720.0
ENGINE, DATA, BROWSER = "engine", "data", "browser"
WHY = {
    ENGINE: "vLLM is not installed (`make engine`)",
    DATA: "KVHORIZON_DATA names no folder of measured data",
    BROWSER: "Playwright is not installed",
}


class Experiment(NamedTuple):
    """A module, what it needs besides the product, and why it is left out of a smoke run, where it is."""

    name: str
    needs: str | None = None
    not_quick: str = ""


EXPERIMENTS = (
    Experiment("scoreboard", DATA),
    Experiment("front", DATA),
    Experiment("program_front", DATA),
    Experiment("bench_simulator"),
    Experiment("step_time", DATA),
    Experiment("watermark_reference", DATA),
    Experiment("measured_engines", DATA),
    Experiment("hindsight"),
    Experiment("recompute_overhead", DATA),
    Experiment("admission", DATA),
    Experiment("victims", DATA),
    Experiment("service_classes", DATA),
    Experiment("forecast_quality", DATA),
    Experiment("bench_forecast"),
    Experiment("batching", DATA),
    Experiment("bench_planner"),
    Experiment("bench_service"),
    Experiment("bench_whatif"),
    Experiment("fuzz_inputs"),
    Experiment("house"),
    Experiment("report_browser", BROWSER),
    Experiment("readme_picture", not_quick="it has no smoke run"),
    Experiment("lockstep", ENGINE, not_quick="its smoke run is a test of `make test-engine`, and takes minutes"),
    Experiment("fuzz_engine", ENGINE),
    Experiment("guardrail", ENGINE),
    Experiment("bench_adapter", ENGINE),
    Experiment("defaults_virtual", ENGINE),
    Experiment("real_engine", ENGINE),
    Experiment("defaults_live", ENGINE),
    Experiment("near_ties", ENGINE),
    Experiment("recorded_replay", ENGINE),
    Experiment("upstream_tests", ENGINE),
    Experiment("support_matrix", ENGINE),
    Experiment("faults_live", ENGINE),
    Experiment("starts", ENGINE, not_quick="it needs root, to start engines as another user"),
    Experiment("soak", ENGINE),
)
APART = {
    "freeze_cells": "draws the cells that all others are judged on, once",
    "step_time_fit": "writes coefficients that are part of the product",
}


class Ended(NamedTuple):
    """How one went; `status` is None where it was skipped."""

    name: str
    status: int | None
    seconds: float
    why: str = ""

    def told(self) -> str:
        how = "ok" if self.status == 0 else f"FAILED ({self.status})"
        if self.status is None:
            how = f"SKIPPED: {self.why}"
        return f"{self.name:<22}{self.seconds:>8.0f} s  {how}"


def missing(needs: str | None, engine_python: Path | None) -> str:
    """Why an experiment with these needs cannot run here; empty where it can."""
    here = {
        None: True,
        ENGINE: engine_python is not None,
        DATA: Path(os.environ.get("KVHORIZON_DATA") or "/nowhere").is_dir(),
        BROWSER: importlib.util.find_spec("playwright") is not None,
    }
    return "" if needs is None or here[needs] else WHY[needs]


def with_vllm(python: Path) -> Path | None:
    """That interpreter, if vLLM is installed there."""
    if not python.exists():
        return None
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    return python if subprocess.run([python, "-c", look], check=False).returncode == 0 else None


def command_of(experiment: Experiment, quick: bool, engine_python: Path | None) -> list[str]:
    python = engine_python if experiment.needs == ENGINE and engine_python else Path(sys.executable)
    return [str(python), "-m", f"experiments.{experiment.name}", *(["--quick"] if quick else [])]


def run_all(
    experiments: Iterable[Experiment],
    quick: bool,
    engine_python: Path | None,
    run: Callable[[list[str]], int],
    say: Callable[[str], None],
    quick_s: float = QUICK_S,
) -> list[Ended]:
    """Each in turn, `run` giving its exit status."""
    ended: list[Ended] = []
    for one in experiments:
        why = missing(one.needs, engine_python) or (one.not_quick if quick else "")
        if quick and sum(before.seconds for before in ended) > quick_s:
            why = why or f"{quick_s / 60:.0f} minutes of smoke runs are over"
        if why:
            say(f"!!! experiments.{one.name} is SKIPPED: {why}")
            ended.append(Ended(one.name, None, 0.0, why))
            continue
        command = command_of(one, quick, engine_python)
        say(f"=== {' '.join(command[1:])}")
        began_s = time.monotonic()
        status = run(command)
        ended.append(Ended(one.name, status, time.monotonic() - began_s))
    return ended


def list_stale(tree: Tree, say: Callable[[str], None]) -> int:
    """One line for each stale result; returns the exit status."""
    found = stale_results(tree)
    for one in found:
        say(f"{one.path}: {one.why}")
    return 1 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of each, nothing kept")
    parser.add_argument("--stale", action="store_true", help="list the results that are older than the code")
    parser.add_argument("--engine-python", type=Path, default=Path(sys.executable), help="an interpreter with vLLM")
    options = parser.parse_args()
    if options.stale:
        raise SystemExit(list_stale(Tree(ROOT), print))

    def run(command: list[str]) -> int:
        return subprocess.run(command, check=False).returncode

    def say(text: str) -> None:
        print(text, flush=True)

    ended = run_all(EXPERIMENTS, options.quick, with_vllm(options.engine_python), run, say)
    say("\n" + "\n".join(one.told() for one in ended))
    say(f"{sum(one.seconds for one in ended) / 60:.1f} minutes in all")
    raise SystemExit(1 if any(one.status for one in ended) else 0)


if __name__ == "__main__":
    main()
