"""`kvhorizon doctor` says what would not work, and in what it exits."""

import dataclasses
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from kvhorizon.cli import checks
from kvhorizon.models.forecast.learned.features import Inputs
from kvhorizon.models.forecast.learned.learned import LearnedModel, save_model
from kvhorizon.models.forecast.learned.trees import Trees


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("KVHORIZON_LOCAL_ONLY", "true")
    return monkeypatch


def states(found: list[checks.Finding]) -> dict[str, str]:
    return {finding.what: finding.state for finding in found}


def install(monkeypatch: pytest.MonkeyPatch, name: str, release: str) -> None:
    real = metadata.version
    monkeypatch.setattr(checks, "version", lambda asked: release if asked == name else real(asked))


@pytest.mark.parametrize(("release", "state"), [("0.32.0", "ok"), ("0.12.1", "note")])
def test_the_release_decides_what_the_plugin_may_do(quiet: pytest.MonkeyPatch, release: str, state: str) -> None:
    install(quiet, "vllm", release)
    assert states(checks.examine())["engine"] == state


def test_a_wrong_setting_is_told_and_nothing_is_started(quiet: pytest.MonkeyPatch) -> None:
    quiet.setenv("KVHORIZON_MODE", "contrl")
    found = checks.examine()
    assert states(found)["settings"] == "fails"
    assert "solver" not in states(found)


def test_a_folder_that_cannot_be_written_fails(quiet: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    quiet.setenv("KVHORIZON_STATE", str(blocked / "inside"))
    quiet.setenv("KVHORIZON_RECORD", str(tmp_path / "records"))
    found = states(checks.examine())
    assert (found["state"], found["record"]) == ("fails", "ok")


def test_the_trained_model_is_looked_at(quiet: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "model" not in states(checks.examine())
    quiet.setenv("KVHORIZON_MODEL", str(tmp_path / "none.json"))
    (failed,) = [finding for finding in checks.examine() if finding.what == "model"]
    assert failed.state == "fails"
    assert "must be a readable file" in failed.says
    trees = Trees(*(np.array(column) for column in ([0], [0], [-1], [3.0], [-1], [-1])))
    of = LearnedModel(trees, np.zeros(1), np.array([[3.0]]), np.array([0]), np.array([[0, 20]]), {})
    for inputs, state, says in ((Inputs(), "ok", "1 groups"), (Inputs(16, True), "note", "in blocks of 16 tokens and")):
        save_model(dataclasses.replace(of, inputs=inputs), tmp_path / "model.json")
        quiet.setenv("KVHORIZON_MODEL", str(tmp_path / "model.json"))
        (found,) = [finding for finding in checks.examine() if finding.what == "model"]
        assert (found.state, says in found.says) == (state, True)


def test_a_service_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVHORIZON_SOLVER", f"unix:{tmp_path}/no request.sock")
    monkeypatch.setattr(checks, "ANSWER_S", 0.5)
    assert states(checks.examine())["solver"] == "fails"


def test_the_command_ends_in_1_where_something_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvhorizon", "doctor"],
        env={"PATH": "", "KVHORIZON_MODE": "nothing", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "mode='nothing'" in done.stdout
    assert "Traceback" not in done.stderr
