"""Do vLLM's own scheduler tests pass with our schedulers in place of vLLM's?

The tests come from the source archive of the vLLM that is installed, and run four times: with vLLM's schedulers, and
with ours in observe, advise and control (no solver: the rules beside the engine decide). A test counts as failed by us
if it passes with vLLM's. Those of control are named in `docs/reference/releases.md`, each with its reason. Needs vLLM
(`make engine`); fetches the archive with pip unless `KVHORIZON_VLLM_SDIST` names it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path

from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.live._upstream import stub_hub, tests_of
from kvhorizon.errors import InputError

SEED = 0
CORE, UNIT = "tests/v1/core", "tests/v1/kv_connector/unit"
FILES = (
    f"{CORE}/test_scheduler.py",
    f"{CORE}/test_async_scheduler.py",
    f"{CORE}/test_priority_preemption_bug.py",
    f"{CORE}/test_prefix_replay.py",
    f"{CORE}/test_mamba_align_chunk_split.py",
    f"{CORE}/test_deferred_block_free.py",
    f"{CORE}/test_swa_inflight_window_free.py",
    f"{CORE}/test_repetition_detection.py",
    "tests/v1/streaming_input/test_scheduler_streaming.py",
    "tests/v1/simple_kv_offload/test_scheduler.py",
    f"{UNIT}/test_remote_decode_lifecycle.py",
    f"{UNIT}/test_remote_prefill_lifecycle.py",
    f"{UNIT}/test_kv_load_failure_recovery.py",
    f"{UNIT}/test_invalid_blocks_correctness.py",
    f"{UNIT}/test_cache_pollution_prevention.py",
    f"{UNIT}/test_error_propagation.py",
    f"{UNIT}/test_scheduler_kv_connector_override.py",
    f"{UNIT}/offloading_connector/test_scheduler.py",
    "tests/v1/spec_decode/test_dflash_lookahead.py",
)
MODES = ("plain", "observe", "advise", "control")
REPOSITORY = Path(__file__).resolve().parents[2]


def installed() -> str:
    """Version of vLLM, under whatever name it was installed. Raises InputError where there is none."""
    names = metadata.packages_distributions().get("vllm")
    if not names:
        raise InputError("vllm", None, "must be installed: `make engine` sets it up")
    return metadata.version(names[0])


def run(mode: str, at: Path, hub: Path, files: list[str]) -> dict[str, str]:
    """Outcome of each test, `passed`, `failed` or `skipped`."""
    report = at / f"{mode}.xml"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(at), str(REPOSITORY)]),
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "KVHORIZON_UPSTREAM": mode,
        "KVHORIZON_MODE": "off" if mode == "plain" else mode,
        "KVHORIZON_LOCAL_ONLY": "true",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "experiments.live._upstream_plugin",
    ]
    subprocess.run(
        [*command, f"--junitxml={report}", "-o", "junit_family=xunit1", *files],
        cwd=at, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    found = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname', '')}::{case.get('name', '')}".removeprefix("tests.v1.")] = outcome
    return found


def measure(options: Options) -> tuple[Figures, Targets]:
    """Run them all; `--quick` takes the first file, in observe and control."""
    modes = ("plain", "observe", "control") if options.quick else MODES
    with tempfile.TemporaryDirectory(prefix="kvhorizon-upstream-") as name:
        folder = Path(name)
        at, hub = tests_of(installed(), folder), stub_hub(folder / "hf")
        files = [file for file in FILES[: 1 if options.quick else None] if (at / file).exists()]
        outcomes = {mode: run(mode, at, hub, files) for mode in modes}
    passing = {test for test, outcome in outcomes["plain"].items() if outcome == "passed"}
    failed = {
        mode: sorted(test for test in passing if outcomes[mode].get(test) != "passed")
        for mode in modes
        if mode != "plain"
    }
    figures = {
        "files": len(files),
        "passed_by_vllm": len(passing),
        "failed_by_vllm_here": sorted(test for test, outcome in outcomes["plain"].items() if outcome == "failed"),
        "failed_by_us": failed,
    }
    targets = {"passed_by_vllm": target(len(passing), ">=100")}
    targets |= {f"{mode}_failures": target(len(failed[mode]), "<=0") for mode in failed if mode != "control"}
    return figures, targets


if __name__ == "__main__":
    main("upstream_tests", SEED, measure)
