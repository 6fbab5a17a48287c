"""A recorded engine's step time is found in its recording's first half, and what-if says whether it does likewise."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from kvhorizon.models.performance.gpu import preset
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows
from kvhorizon.sim.fitted_clock import Seen, fit_clock
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.whatif.engine_spec import engine_facts, load_model
from kvhorizon.whatif.question import Question, prepare, what_if
from kvhorizon.whatif.self_check import half_s

SLOW = {"fixed_s": 0.011, "weights_s": 0.0, "linear_s_per_token": 1.1e-4, "kv_read_s_per_token": 9e-8, "smooth": 2.0}
MODEL = load_model("llama-3.1-8b")
TRUE = engine_facts(MODEL, preset("a100-40gb"), kv_blocks=1500)
TRUE = dataclasses.replace(TRUE, cost=TRUE.cost._replace(**SLOW, sequence_s=2e-4, attention_s_per_pair=0.0))


@pytest.fixture(scope="module")
def ran() -> tuple[Trace, Outcome]:
    """An engine short of memory, whose clock is known."""
    trace = synthesize("chat", 1500, 3)
    trace = dataclasses.replace(trace, arrival_s=trace.arrival_s * (300.0 / trace.arrival_s[-1]))
    return trace, replay(Setup(trace, TRUE), parse_policy("fcfs"))


def seen(ran: tuple[Trace, Outcome]) -> Seen:
    trace, outcome = ran
    columns = (trace.prompt_tokens, trace.output_tokens, outcome.first_token_s, outcome.finish_s)
    return Seen(*(np.array(one, float) for one in (*columns, outcome.preemptions, outcome.recompute_tokens)))


def test_the_clock_is_found(ran: tuple[Trace, Outcome]) -> None:
    """A step of 60 requests with 500 tokens each takes as long as it did, within 4 %."""
    assert 0.02 < ran[1].preemptions.mean() < 0.5
    fitted = fit_clock(seen(ran), half_s(seen(ran)), TRUE.cost)
    assert fitted is not None
    for batch in (20, 60, 100):
        seconds = [
            cost.fixed_s + batch * (cost.linear_s_per_token + cost.sequence_s + 500 * cost.kv_read_s_per_token)
            for cost in (fitted, TRUE.cost)
        ]
        assert seconds[0] == pytest.approx(seconds[1], rel=0.04)
    assert fitted.flops_per_token == TRUE.cost.flops_per_token


def test_nothing_of_the_second_half_is_read(ran: tuple[Trace, Outcome]) -> None:
    whole, until_s = seen(ran), half_s(seen(ran))
    later = whole.end_s > until_s
    spoilt = whole._replace(
        end_s=np.where(later, whole.end_s * 7.0, whole.end_s),
        first_s=np.where(whole.first_s > until_s, np.nan, whole.first_s),
        recompute_tokens=np.where(later, 1e9, whole.recompute_tokens),
    )
    assert fit_clock(spoilt, until_s, TRUE.cost) == fit_clock(whole, until_s, TRUE.cost)


def test_too_little_says_nothing(ran: tuple[Trace, Outcome]) -> None:
    assert fit_clock(seen(ran), 2.0, TRUE.cost) is None


def recorded(ran: tuple[Trace, Outcome], path: Path, blocks: int = 1500, mode: str = "observe") -> str:
    """The run as an engine records it that believes its GPU another, and its pool of so many blocks."""
    trace, outcome = ran
    first, whole = outcome.first_token_s - trace.arrival_s, outcome.finish_s - trace.arrival_s
    rows = [
        Row(
            1e9 + float(trace.arrival_s[n]),
            int(trace.prompt_tokens[n]),
            int(trace.output_tokens[n]),
            preemptions=int(outcome.preemptions[n]),
            recompute_tokens=int(outcome.recompute_tokens[n]),
            ttft_s=float(first[n]),
            e2e_s=float(whole[n]),
            tenant=f"t{n % 3}",
            mode=mode,
        )
        for n in range(len(trace))
    ]
    believed = dataclasses.replace(TRUE, total_blocks=blocks, cost=engine_facts(MODEL, preset("h200")).cost)
    write_rows(path, rows, {**dataclasses.asdict(believed), "cost": believed.cost._asdict(), "model": "mine"})
    return str(path)


def test_a_recording_is_replayed_on_its_own_engine_and_agrees(ran: tuple[Trace, Outcome], tmp_path: Path) -> None:
    prepared = prepare(Question(recorded(ran, tmp_path / "r.parquet"), policies=("fcfs",)))
    results = what_if(prepared, {}).results
    found = results["self_check"]
    assert (found["clock"], found["differs"]) == ("fitted", ())
    assert max(found["errors"].values()) < 0.1
    assert "does as the recorded one did" in found["says"]
    assert results["engine"]["model"] == "mine"
    assert results["engine"]["kv_blocks"] == 1500
    assert prepared.setup.trace.key_names == ("t0", "t1", "t2")


def test_what_was_otherwise_is_told(ran: tuple[Trace, Outcome], tmp_path: Path) -> None:
    """A pool that is not the one recorded: no request is evicted."""
    found = prepare(Question(recorded(ran, tmp_path / "r.parquet", blocks=4000), policies=("fcfs",))).self_check
    assert found is not None
    assert "preemptions" in found.differs
    assert "differs from the recorded one in" in found.says()
    assert re.search(r"evictions 0 where \d\d+ was recorded", found.says())


def test_no_check_where_nothing_can_be_compared(ran: tuple[Trace, Outcome], tmp_path: Path) -> None:
    path = recorded(ran, tmp_path / "r.parquet", mode="control")
    assert prepare(Question(path, policies=("fcfs",))).self_check is None
    assert prepare(Question(path, gpu="h200", policies=("fcfs",))).engine.model == "llama-3.1-8b"
    bare = tmp_path / "bare.parquet"
    write_rows(bare, [Row(1.0, 10, 10), Row(2.0, 10, 10)], {})
    assert prepare(Question(str(bare), policies=("fcfs",))).self_check is None
