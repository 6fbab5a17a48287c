"""The command line as a user meets it: real processes for what must end well, one clear line for what must not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from problems import random_snapshot

from kvhorizon import __version__
from kvhorizon.cli import main
from kvhorizon.solver.snapshot_json import snapshot_to_json

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["synthetic:mixed", "--limit", "60", "--kv-blocks", "1200", "--load", "1.3", "--forecast", "noisy:0.6"]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvhorizon", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        check=False,
    )


def without_timing(path: Path) -> str:
    results = json.loads(path.read_text())
    assert results.pop("timing")["total_s"] > 0
    return json.dumps(results)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same what-if, all five policies and a real solver child, twice."""
    folders = [tmp_path_factory.mktemp("what_if") for _ in range(2)]
    for folder in folders:
        done = run("what-if", *SMALL, "--out", str(folder))
        assert done.returncode == 0, done.stderr
    return folders


def test_two_runs_are_identical_but_for_their_timing(answers: list[Path]) -> None:
    first, second = (without_timing(folder / "results.json") for folder in answers)
    assert first == second


def test_all_requests_finish_under_every_policy(answers: list[Path]) -> None:
    results = json.loads((answers[0] / "results.json").read_text())
    assert results["schema"] == 1
    assert [row["policy"] for row in results["policies"]] == [
        "fcfs",
        "watermark:0.02",
        "kvhorizon:greedy",
        "kvhorizon",
        "fcfs:free-recompute",
    ]
    assert {row["finished"] for row in results["policies"]} == {60}


def test_the_program_makes_the_plans(answers: list[Path]) -> None:
    plans = json.loads((answers[0] / "results.json").read_text())["policies"][3]["plans"]
    assert plans["program"] > 0
    assert plans["local"] == 0


def test_the_report_stands_alone(answers: list[Path]) -> None:
    page = (answers[0] / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<script src=" not in page
    assert "<link" not in page
    assert len(page) < 8_000_000


TRACE = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,20,6\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["what-if", "no-such-file.csv", "--out", "o"], "no-such-file.csv"),
        (["what-if", "synthetic:nothing", "--out", "o"], "nothing"),
        (["what-if", "synthetic:chat", "--gpu", "abacus", "--out", "o"], "gpu='abacus', must be one of"),
        (["what-if", "synthetic:chat", "--model", "eliza", "--out", "o"], "eliza"),
        (["what-if", "synthetic:chat", "--policy", "luck", "--out", "o"], "policy='luck', must begin with one of"),
        (["what-if", "synthetic:chat", "--policy", "watermark:2", "--out", "o"], "needs a share"),
        (["what-if", "synthetic:chat", "--load", "-1", "--out", "o"], "load=-1.0, must be > 0"),
        (["what-if", "synthetic:chat", "--limit", "0", "--out", "o"], "limit=0, must be >= 1"),
        (["what-if", "synthetic:chat", "--max-output-tokens", "0", "--out", "o"], "max-output-tokens=0, must be >= 1"),
        (["what-if", "synthetic:chat", "--fail-at-s", "-1", "--out", "o"], "fail-at-s=-1.0, must be >= 0"),
        (["what-if", "synthetic:chat", "--fail-at-s", "1", "--down-for-s", "nan", "--out", "o"], "down-for-s=nan"),
        (["what-if", "synthetic:chat", "--forecast", "noisy:x", "--out", "o"], "noisy:x"),
        (["what-if", "synthetic:chat", "--budget", "soon", "--out", "o"], "budget='soon', must be milliseconds"),
        (["what-if", "synthetic:chat", "--kv-blocks", "3", "--out", "o"], "must fit into the pool"),
        (["what-if", "synthetic:chat", "--tp", "3", "--out", "o"], "tp=3"),
        (["what-if", "trace.csv", "--out", "trace.csv"], "out="),
        (["what-if", "empty.csv", "--out", "o"], "empty.csv"),
        (["what-if", "negative.csv", "--out", "o"], "-20"),
        (["what-if", "missing.csv", "--out", "o"], "output_tokens"),
        (["plan", "trace.csv"], "snapshot: Invalid JSON"),
        (["plan", "no-such.json"], "must be a readable file"),
        (["serve", "--config", "typo.toml"], "did you mean listen?"),
        (["serve", "--config", "trace.csv"], "must be TOML"),
        (["serve", "--listen", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "negative.csv").write_text(TRACE.replace("20", "-20"))
    (tmp_path / "missing.csv").write_text("arrival_s,prompt_tokens\n0,10\n")
    (tmp_path / "typo.toml").write_text('lisen = "localhost:0"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kvhorizon", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capfd.readouterr().err
    assert end.value.code == 2, said
    assert says in said
    assert len(said.strip().splitlines()) == 1


def test_no_traceback_reaches_a_user(tmp_path: Path) -> None:
    done = run("what-if", "synthetic:chat", "--gpu", "abacus", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("kvhorizon: error: gpu='abacus', must be one of")
    assert "Traceback" not in done.stderr


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs a command in this process, in an empty folder; returns standard output and standard error."""

    def command(*arguments: str) -> tuple[str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["kvhorizon", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capfd.readouterr()

    return command


def test_prefix_caching_is_on_where_the_trace_says_what_is_shared(said) -> None:
    few = ["what-if", "synthetic:shared-prompt", "--gpu", "h100-80gb", "--kv-blocks", "600", "--limit", "40"]
    out, err = said(*few, "--policy", "fcfs", "--out", "on")
    assert "prefix caching on, by prefix hashes of 64 tokens" in out
    assert "cached" in out
    assert "prefill" in out
    assert "warning" not in err
    assert json.loads(Path("on/results.json").read_text())["engine"]["prefix_caching"] is True
    page = Path("on/report.html").read_text()
    assert "<dt>prefix caching</dt><dd>on, by prefix hashes of 64 tokens</dd>" in page
    assert "prefill tokens computed per request" in page
    out, err = said(*few, "--policy", "fcfs", "--out", "off", "--no-prefix-caching")
    assert "prefix caching off, as asked for" in out
    assert "warning" not in err
    off = json.loads(Path("off/results.json").read_text())["policies"][0]
    assert off["prefill_tokens_per_request"] > 1000
    assert "prefill tokens computed per request" not in Path("off/report.html").read_text()


@pytest.mark.parametrize("flag", [None, "--prefix-caching"])
def test_a_trace_that_cannot_say_what_is_shared_is_warned_of(said, tmp_path: Path, flag: str | None) -> None:
    """Once in the terminal, in results.json and before the answer in the report."""
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)
    more = [] if flag is None else [flag]
    _, err = said("what-if", "trace.csv", "--policy", "fcfs", "--out", "o", *more)
    (warning,) = [line for line in err.splitlines() if line.startswith("kvhorizon: warning: ")]
    text = warning.removeprefix("kvhorizon: warning: ")
    assert ("it has no effect" if flag else "prefix caching is off here") in text
    assert json.loads(Path("o/results.json").read_text())["warnings"] == [text]
    page = Path("o/report.html").read_text()
    assert page.index(f"{text}.</section>") < page.index('class="answer"')
    if flag is None:
        out, err = said("inspect", "trace.csv")
        assert "off: the trace does not say what is shared" in out
        assert text in err


def test_one_snapshot_in_one_plan_out(tmp_path: Path) -> None:
    """Handles in the plan are those of the snapshot; every waiting or evicted request has its sentence."""
    snapshot = random_snapshot(1, 8, 12)
    path = tmp_path / "snapshot.json"
    path.write_text(snapshot_to_json(snapshot))
    done = run("plan", str(path))
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["source"] == "program"
    assert plan["bound_s"] <= plan["objective_s"]
    waiting = set(snapshot.requests.handle[8:].tolist())
    assert {entry["handle"] for entry in plan["admissions"]} <= waiting
    assert len(plan["explanations"]) == len(waiting) + len(plan["evictions"])
    for handle in waiting:
        assert any(f" request {handle} " in sentence.replace(":", " ") for sentence in plan["explanations"])


def test_the_documented_snapshot_can_be_planned() -> None:
    done = run("plan", str(ROOT / "docs/snapshot.json"))
    assert done.returncode == 0, done.stderr
    assert "admit request 3 now:" in done.stdout


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.startswith("kvhorizon ")


def test_the_version_is_said_without_a_compiler() -> None:
    """As fast as Python starts, and wherever numba is broken."""
    program = (
        "import sys; sys.modules['numba'] = None; sys.argv[1:] = ['--version']; import kvhorizon.cli as c; c.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == (f"kvhorizon {__version__}\n", "", 0)
