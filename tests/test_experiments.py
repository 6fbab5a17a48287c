"""All experiments in turn: each is in the list and in the table, what lacks something is skipped, failures show."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as every
from experiments.__main__ import APART, BROWSER, DATA, ENGINE, EXPERIMENTS, Experiment, run_all, with_vllm

FOLDER = Path(every.__file__).parent
NAMES = [one.name for one in EXPERIMENTS]


def runnable() -> set[str]:
    found = (path for path in FOLDER.rglob("*.py") if path.stem != "__main__")
    return {path.stem for path in found if 'if __name__ == "__main__"' in path.read_text() and path.stem[0] != "_"}


def test_every_experiment_is_run_once() -> None:
    assert sorted([*NAMES, *APART]) == sorted(runnable())


@pytest.mark.parametrize("name", sorted(runnable()))
def test_an_experiment_is_found_by_its_own_name(name: str) -> None:
    """In whichever folder it is; that of its file is told apart from all others."""
    spec = importlib.util.find_spec(f"experiments.{name}")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin) in set(FOLDER.rglob(f"{name}.py"))
    assert len(list(FOLDER.rglob(f"{name}.py"))) == 1


def test_every_experiment_is_in_the_table() -> None:
    table = "".join(line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("|"))
    named = set(re.findall(r"`(?:python -m experiments\.)?([a-z_]+)`", table))
    assert set(NAMES) <= named


@pytest.mark.parametrize("one", EXPERIMENTS, ids=NAMES)
def test_what_needs_data_or_an_engine_says_so(one: Experiment) -> None:
    """By what a module imports, itself or through helpers."""
    files = {path.stem: path for path in FOLDER.rglob("*.py") if path.stem != "__init__"}
    seen, left = set(), [one.name]
    while left:
        name = left.pop()
        if name not in seen and name in files:
            seen.add(name)
            left += re.findall(r"from experiments\.(?:\w+\.)*(\w+) import", files[name].read_text())
    text = "".join(files[name].read_text() for name in seen - {"_harness"})
    if re.search(r"^\s*(?:from|import) vllm", text, re.MULTILINE):
        assert one.needs == ENGINE
    elif re.search(r"\bdata\(\)", text):
        assert one.needs == DATA
    if not one.not_quick:
        assert "--quick" in text or ".quick" in text


def test_failures_do_not_stop_the_others_and_skips_are_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVHORIZON_DATA", raising=False)
    some = [
        Experiment("a"),
        Experiment("b", ENGINE),
        Experiment("c", DATA),
        Experiment("d"),
        Experiment("e", not_quick="it is long"),
    ]
    ran: list[list[str]] = []
    said: list[str] = []

    def run(command: list[str]) -> int:
        ran.append(command)
        return 3 if command[2] == "experiments.a" else 0

    ended = run_all(some, True, None, run, said.append)
    assert [command[1:] for command in ran] == [["-m", f"experiments.{name}", "--quick"] for name in "ad"]
    assert [one.status for one in ended] == [3, None, None, 0, None]
    assert "FAILED (3)" in ended[0].told()
    assert [line for line in said if line.startswith("!!!")] == [
        "!!! experiments.b is SKIPPED: vLLM is not installed (`make engine`)",
        "!!! experiments.c is SKIPPED: KVHORIZON_DATA names no folder of measured data",
        "!!! experiments.e is SKIPPED: it is long",
    ]


def test_smoke_runs_end_in_time() -> None:
    some = [Experiment("a"), Experiment("b")]
    ended = run_all(some, True, None, lambda _: 0, print, quick_s=0.0)
    assert [one.status for one in ended] == [0, None]
    assert "minutes of smoke runs are over" in ended[1].why
    assert [one.status for one in run_all(some, False, None, lambda _: 0, print, quick_s=0.0)] == [0, 0]


def test_an_engine_s_own_interpreter_runs_what_needs_it() -> None:
    ran: list[list[str]] = []
    run_all(
        [Experiment("a", ENGINE), Experiment("b")], False, Path("/engine/python"), lambda c: ran.append(c) or 0, print
    )
    assert ran == [["/engine/python", "-m", "experiments.a"], [sys.executable, "-m", "experiments.b"]]
    assert with_vllm(Path("/no/such/python")) is None


@pytest.mark.parametrize(("status", "says"), [(0, "ok"), (1, "FAILED (1)")])
def test_the_exit_status_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, says: str
) -> None:
    monkeypatch.setattr(every, "EXPERIMENTS", (Experiment("one"), Experiment("two", BROWSER)))
    monkeypatch.setattr(every, "command_of", lambda *_: [sys.executable, "-c", f"raise SystemExit({status})"])
    monkeypatch.setattr(every, "missing", lambda needs, _: "no browser" if needs == BROWSER else "")
    monkeypatch.setattr(sys, "argv", ["experiments", "--quick", "--engine-python", "/nowhere"])
    with pytest.raises(SystemExit) as end:
        every.main()
    assert end.value.code == status
    told = capsys.readouterr().out
    assert says in told
    assert "SKIPPED: no browser" in told


def test_make_knows_it() -> None:
    for asked, wanted in (
        ("QUICK=1", "-m experiments --quick --engine-python"),
        ("QUICK=", "-m experiments  --engine"),
    ):
        done = subprocess.run(
            ["make", "-n", "experiments", asked], cwd=FOLDER.parent, capture_output=True, text=True, check=True
        )
        assert wanted in done.stdout
