"""The simulated engine decides as vLLM's own scheduler does, and a fault in it would be seen."""

import json
import os
import subprocess
import sys

import pytest

SCENARIOS = 24


@pytest.fixture(scope="module")
def found() -> dict:
    """One quick run of the experiment, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments.lockstep", "--quick", "--json"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_step_is_equal(found: dict) -> None:
    assert found["figures"]["first_differences"] == []
    assert found["targets"]["differences"]["met"]
    assert found["figures"]["scenarios"] == SCENARIOS
    assert found["targets"]["steps"]["value"] > 10_000
    assert found["figures"]["steps_ahead"] > 1_000
    assert found["targets"]["preemptions"]["value"] > 1_000


def test_every_planted_fault_is_caught(found: dict) -> None:
    assert found["figures"]["mutants"] >= 12
    assert found["figures"]["missed"] == []


def test_what_has_no_fault_is_not_caught(found: dict) -> None:
    assert found["figures"]["false_alarm"] is None
