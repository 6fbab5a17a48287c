"""Prefix caching in what-if: on where the trace says what is shared, as in vLLM; else off, with a warning."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from engines import facts

from kvhorizon.cli.commands.questions import find, sweep
from kvhorizon.errors import InputError
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows
from kvhorizon.sim.engine.contents import contents_of
from kvhorizon.sim.fleet.engines import Fleet, play
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.prefix_caching import NO_EFFECT, RECORDED_UNKNOWN, UNKNOWN, resolve
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.readers import read_trace, write_trace
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace, make_trace
from kvhorizon.whatif.many import answer_all
from kvhorizon.whatif.question import Question, prepare, what_if

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
SHARED = Question("synthetic:shared-prompt", gpu="h100-80gb", kv_blocks=600, limit=200, policies=("fcfs",))


def mooncake(path: Path) -> str:
    """Twelve prompts of 1,100 tokens that begin with the same 1,024."""
    rows = [
        {"timestamp": 500 * n, "input_length": 1100, "output_length": 20, "hash_ids": [1, 2, 100 + n]}
        for n in range(12)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def azure(path: Path) -> str:
    path.write_text(AZURE)
    return str(path)


def results_of(question: Question) -> dict:
    return what_if(prepare(question), {}).results


def test_it_is_on_where_hashes_say_what_is_shared(tmp_path: Path) -> None:
    """The first request computes all 1,100 tokens, each later one only the 76 after the shared ones."""
    results = results_of(Question(mooncake(tmp_path / "m.jsonl"), policies=("fcfs",)))
    assert results["engine"]["prefix_caching"] is True
    assert results["engine"]["prefix_caching_says"] == "on, by prefix hashes of 512 tokens"
    assert results["warnings"] == []
    (row,) = results["policies"]
    assert row["cached_tokens"] == 11 * 1024
    assert row["cached_share"] == pytest.approx(11 * 1024 / (12 * 1100))
    assert row["prefill_tokens_per_request"] == pytest.approx((12 * 1100 - 11 * 1024) / 12)


def test_it_is_off_with_a_warning_where_the_trace_cannot_say(tmp_path: Path) -> None:
    results = results_of(Question(azure(tmp_path / "a.csv"), policies=("fcfs",)))
    assert results["engine"]["prefix_caching"] is False
    assert results["warnings"] == [UNKNOWN]
    (row,) = results["policies"]
    assert (row["cached_tokens"], row["cached_share"]) == (0, 0.0)
    assert row["prefill_tokens_per_request"] == (374 + 396) / 2


def test_what_was_asked_for_is_done(tmp_path: Path) -> None:
    shares, does_not = mooncake(tmp_path / "m.jsonl"), azure(tmp_path / "a.csv")
    off = prepare(Question(shares, prefix_caching=False))
    assert (off.setup.prefix_caching, off.warnings) == (False, ())
    on = prepare(Question(does_not, prefix_caching=True))
    assert (on.setup.prefix_caching, on.warnings) == (True, (NO_EFFECT,))
    assert prepare(Question(does_not, prefix_caching=False)).warnings == ()


def named(session: list[int]) -> Trace:
    size = len(session)
    columns = np.arange(size) * 1.0, np.full(size, 100), np.full(size, 10)
    return make_trace("t", *columns, session=np.array(session))


def test_sessions_say_it_where_one_has_two_turns() -> None:
    assert resolve(named([0, 1, 0]), None, 16).on
    for lone in ([0, 1, 2], [-1, -1, -1]):
        assert resolve(named(lone), None, 16) == (False, "off: the trace does not say what is shared", UNKNOWN)


def test_a_recording_is_replayed_as_its_engine_was(tmp_path: Path) -> None:
    """What its engine had, where it says so; else what vLLM would, where it has hashes. A flag outweighs both."""
    engine = {name: getattr(facts(200), name) for name in ("total_blocks", "block_size", "max_num_seqs")}
    engine |= {"max_num_batched_tokens": 512, "max_model_len": 4096, "cost": {"fixed_s": 0.01}}
    hashed = [Row(1e9 + n, 70, 9, prefix_hashes=(1, 2, 3, 10 + n)[: 70 // engine["block_size"]]) for n in range(5)]
    bare = [row._replace(prefix_hashes=()) for row in hashed]
    expected = {
        ("hashed", None): (True, ()),
        ("hashed", True): (True, ()),
        ("hashed", False): (False, ()),
        ("bare", None): (False, (UNKNOWN,)),
        ("bare", True): (False, (RECORDED_UNKNOWN,)),
        ("bare", False): (False, ()),
    }
    for (name, told), (on, warnings) in expected.items():
        path = tmp_path / f"{name}-{told}.parquet"
        write_rows(
            path, hashed if name == "hashed" else bare, engine if told is None else {**engine, "prefix_caching": told}
        )
        prepared = prepare(Question(str(path), policies=("fcfs",)))
        assert (prepared.setup.prefix_caching, prepared.warnings) == (on, warnings), (name, told)
    assert prepare(Question(str(tmp_path / "hashed-False.parquet"), prefix_caching=True)).setup.prefix_caching
    write_rows(tmp_path / "wrong.parquet", bare, {**engine, "prefix_caching": "yes"})
    with pytest.raises(InputError, match="recording: engine prefix_caching='yes', must be true or false"):
        prepare(Question(str(tmp_path / "wrong.parquet")))


def test_hashes_that_do_not_fall_on_blocks() -> None:
    trace = dataclasses.replace(synthesize("shared-prompt", 20, 0), prefix_tokens=24)
    found = resolve(trace, None, 16)
    assert not found.on
    assert found.warning is not None
    assert "prefix_tokens=24" in found.warning
    with pytest.raises(InputError, match="prefix_tokens=24, must be a multiple or a divisor of the block size 16"):
        resolve(trace, True, 16)


@pytest.mark.parametrize("block_size", [16, 64, 128])
def test_hashes_smaller_than_a_block_name_the_block_that_they_end(block_size: int) -> None:
    """1,024 shared tokens are 1,024 / block size equal blocks for all, whatever a hash stands for."""
    trace = synthesize("shared-prompt", 30, 1)
    start, contents = contents_of(trace, block_size)
    blocks = [contents[start[n] : start[n + 1]] for n in range(30)]
    shared = 1024 // block_size
    for mine in blocks:
        assert (mine[:shared] == blocks[0][:shared]).all()
    own = np.concatenate([mine[shared:] for mine in blocks])
    assert len(np.unique(own)) == len(own)


@pytest.mark.parametrize("name", ["agentic", "shared-prompt"])
def test_a_written_trace_is_read_with_the_tokens_of_its_hashes(tmp_path: Path, name: str) -> None:
    trace = synthesize(name, 200, 0)
    write_trace(trace, tmp_path / "t.csv")
    assert read_trace(tmp_path / "t.csv").prefix_tokens == trace.prefix_tokens == 64


@pytest.mark.parametrize("policy", ["fcfs", "kvhorizon:greedy"])
def test_prefill_is_prompts_net_of_hits_and_recomputation(policy: str) -> None:
    """Of one engine and of several, evictions and all."""
    trace = synthesize("shared-prompt", 300, 2)
    setup = Setup(trace, dataclasses.replace(facts(250, 16, 64, 512), max_model_len=8192), prefix_caching=True)
    once = replay(setup, parse_policy(policy))
    for outcome in (once, play(setup, parse_policy(policy), Fleet(2))):
        decoded = int((trace.output_tokens - 1).sum())
        new = int(trace.prompt_tokens.sum()) - outcome.cached_prompt_tokens
        assert outcome.looked_up_tokens == trace.prompt_tokens.sum()
        assert outcome.computed_tokens - decoded == new + outcome.recompute_tokens.sum()
    if policy == "fcfs":
        assert once.preemptions.sum() > 0
        assert once.cached_tokens > once.cached_prompt_tokens


def test_load_is_of_the_engine_that_is_simulated() -> None:
    """At the same load, requests come faster where most of their prompts are found cached."""
    asked = dataclasses.replace(SHARED, load=1.0)
    on, off = (prepare(dataclasses.replace(asked, prefix_caching=one)).setup for one in (None, False))
    assert on.trace.arrival_s[-1] < 0.5 * off.trace.arrival_s[-1]


def test_sweeps_and_searches_say_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Question(azure(tmp_path / "a.csv"), policies=("fcfs",))
    sweep(asked, ["seed=0,1"], 100, answer_all, tmp_path, "kvhorizon")
    assert capsys.readouterr().err.count(UNKNOWN) == 1
    assert json.loads((tmp_path / "sweep.json").read_text())["warnings"] == [UNKNOWN]
    assert UNKNOWN in (tmp_path / "report.html").read_text()
    find(SHARED, "preemption_frequency<=0.5", "kv_blocks", 100, tmp_path)
    found = json.loads((tmp_path / "find.json").read_text())
    assert (found["prefix_caching"], found["warnings"]) == (True, [])
    assert capsys.readouterr().err.count("warning") == 0
