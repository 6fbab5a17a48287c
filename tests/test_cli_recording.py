"""record, inspect and explain from the command line; and a recording replayed by what-if."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stub_planner import StubPlanner

from kvhorizon.adapter.telemetry.listen import as_json, listen_tcp
from kvhorizon.cli import main
from kvhorizon.recording.read import read_recording
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import Folder, write_rows
from kvhorizon.service.server import serve
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.client import Client

Cli = Callable[..., str]
FACTS = {
    "model": "mine",
    "total_blocks": 100,
    "block_size": 16,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 512,
    "max_model_len": 4096,
    "cost": {"fixed_s": 0.01, "weights_s": 0.0},
}
ROWS = [
    Row(
        1e9 + n,
        100,
        200,
        f"r{n}",
        tenant="[bold]x",
        preemptions=n % 2,
        ttft_s=0.5,
        tpot_s=0.01,
        e2e_s=2.5,
        finish="stop",
    )
    for n in range(10)
]
LOG = '{"created": 1700000000, "user": "team-a", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n'


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process; returns what it says, also where it fails."""

    def run(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["kvhorizon", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        assert (end.value.code or 0) == status, said.err
        return said.out if status == 0 else said.err

    return run


def test_how_to_record_is_said(cli: Cli) -> None:
    said = cli("record")
    assert "KVHORIZON_RECORD=DIR vllm serve MODEL --scheduler-cls kvhorizon.adapter.make_scheduler" in said


def test_everything_becomes_one_recording(cli: Cli, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "live", "e", 10**9)
    folder.write(ROWS[:5], FACTS)
    folder.write(ROWS[5:], FACTS)
    (tmp_path / "access.jsonl").write_text(LOG)
    (tmp_path / "bench.json").write_text(json.dumps({"input_lens": [5], "output_lens": [6], "request_rate": 1.0}))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens,client\n0,7,8,c\n")
    (tmp_path / "mooncake.jsonl").write_text('{"timestamp": 1, "input_length": 9, "output_length": 4}\n')
    names = ("live", "access.jsonl", "bench.json", "trace.csv", "mooncake.jsonl")
    out = tmp_path / "one.parquet"
    said = cli("record", *(str(tmp_path / name) for name in names), "--out", str(out))
    assert "14 requests" in said
    found = read_recording(out)
    assert sorted(found.counts["prompt_tokens"].tolist()) == [3, 5, 7, 9, *[100] * 10]
    assert found.facts == FACTS
    assert [row for row in found.rows() if row.prompt_tokens == 100] == ROWS
    assert "team-a" not in str(found.texts)
    cli("record", str(tmp_path / "access.jsonl"), "--out", str(out), "--tenants", "given")
    assert read_recording(out).texts["tenant"] == ["team-a"]


def test_a_recording_is_inspected_on_its_own_engine(cli: Cli, tmp_path: Path) -> None:
    write_rows(tmp_path / "r.parquet", ROWS, FACTS)
    found = json.loads(cli("inspect", str(tmp_path / "r.parquet"), "--json"))
    assert found["engine"] == "as recorded: mine"
    assert found["pressure"]["pool_blocks"] == 100
    assert found["recorded"]["preemption_frequency"] == 0.5
    assert found["verdict"]["help"] == "much"
    other = json.loads(cli("inspect", str(tmp_path / "r.parquet"), "--gpu", "h200", "--limit", "3", "--json"))
    assert other["pressure"]["pool_blocks"] > 10_000
    assert other["requests"] == 3
    shown = cli("inspect", str(tmp_path / "r.parquet"))
    assert "kvhorizon can help much" in shown
    assert "[bold]x" in shown  # a tenant's name is text, whatever is in it


def test_an_inspection_is_drawn(cli: Cli, tmp_path: Path) -> None:
    """Names of tenants, engines and files are text on the page, whatever is in them; nothing is loaded for it."""
    hostile = '</script><script>alert("x")</script>'
    rows = [row._replace(tenant=(hostile, "b")[n % 2]) for n, row in enumerate(ROWS)]
    write_rows(tmp_path / "r<b>.parquet", rows, {**FACTS, "model": hostile})
    said = cli("inspect", str(tmp_path / "r<b>.parquet"), "--plot", str(tmp_path / "page.html"))
    assert "page.html" in said
    page = (tmp_path / "page.html").read_text()
    body = page.split("</script></head>")[1]
    assert "<script>alert" not in page
    assert "r<b>" not in page
    assert "src=" not in body
    assert page.count("</script>") == page.count("<script")
    for name in ("Arrivals", "Lengths", "Tenants", "KV demand against the pool"):
        assert f"{name}</h2>" in body
    assert "plot='" in cli("inspect", "synthetic:chat", "--plot", str(tmp_path), status=2)


def test_a_workload_is_inspected(cli: Cli) -> None:
    said = cli("inspect", "synthetic:chat")
    assert "llama-3.1-8b on 1 × a100-40gb" in said
    assert "kvhorizon can help little: the engine has room" in said


def test_a_recording_is_replayed(cli: Cli, tmp_path: Path) -> None:
    write_rows(tmp_path / "r.parquet", ROWS, FACTS)
    cli("what-if", str(tmp_path / "r.parquet"), "--policy", "fcfs", "--out", str(tmp_path / "out"))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["trace"]["requests"] == 10
    assert results["trace"]["output_tokens"] == 2000


def test_explain_says_what_the_plugin_says(cli: Cli) -> None:
    decision = {"at_s": 0.0, "step": 7, "request_id": "r", "what": "held", "by": "local", "why": "no room", "times": 3}
    known = {"request": "r", "state": "waiting", "now": "it waits", "decisions": [decision]}
    known |= {"handle": None, "engine_id": "e", "solver": None}
    listener = listen_tcp(
        "127.0.0.1", 0, {"/explain": lambda query: as_json(known) if query["request"] == "r" else None}
    )
    at = f"http://127.0.0.1:{listener.port}"
    said = cli("explain", "r", "--at", at)
    assert "r: it waits" in said
    assert "step 7: held back by the rule beside the engine (3 times, lately): no room" in said
    assert json.loads(cli("explain", "r", "--at", at, "--json")) == {**known, "plan": None}
    assert "request='s', must be live" in cli("explain", "s", "--at", at, status=2)
    listener.stop()
    assert "must answer" in cli("explain", "r", "--at", at, status=2)


def test_explain_asks_the_solver_as_well(cli: Cli) -> None:
    """The plan of the engine's session, by the handle and the engine's name that its plugin tells."""
    snapshot = sample_snapshot()
    with (
        serve("127.0.0.1:0", StubPlanner, None) as server,
        Client(server.address) as client,
        client.session() as session,
    ):
        session.plan(snapshot)
        known = {"request": "r", "state": "waiting", "now": "it waits", "decisions": [], "handle": 7}
        known |= {"engine_id": snapshot.facts.engine_id, "solver": server.address}
        listener = listen_tcp("127.0.0.1", 0, {"/explain": lambda _: as_json(known)})
        at = f"http://127.0.0.1:{listener.port}"
        assert "The solver's newest plan: admit now, number 1" in cli("explain", "r", "--at", at)
        known["handle"] = 77  # a request that the plan does not know yet
        assert "newest plan" not in cli("explain", "r", "--at", at)
        listener.stop()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["record", "log.jsonl"], "out: must name a .parquet file"),
        (["record", "log.jsonl", "--out", "o.csv"], "out='o.csv', must name a .parquet file"),
        (["record", "log.jsonl", "--out", "o.parquet", "--tenants", "all"], "tenants='all'"),
        (["record", "nothing.jsonl", "--out", "o.parquet"], "source='nothing.jsonl', must be an existing file"),
        (["record", "broken.parquet", "--out", "o.parquet"], "must be readable Parquet"),
        (["record", "log.jsonl", "--out", "nowhere/o.parquet"], "out='nowhere/o.parquet', must be writable"),
        (["inspect", "nothing.csv"], "nothing.csv"),
        (["inspect", "broken.parquet"], "must be readable Parquet"),
        (["inspect", "synthetic:chat", "--gpu", "abacus"], "gpu='abacus'"),
        (["inspect", "synthetic:chat", "--limit", "0"], "limit=0"),
        (["inspect", "facts.parquet"], "recording: engine total_blocks=0"),
        (["what-if", "broken.parquet", "--out", "o"], "must be readable Parquet"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.jsonl").write_text(LOG)
    Path("broken.parquet").write_bytes(b"PAR1 and nothing else")
    write_rows(Path("facts.parquet"), ROWS, {**FACTS, "total_blocks": 0})
    said = cli(*arguments, status=2)
    assert says in said
    assert len(said.strip().splitlines()) == 1
