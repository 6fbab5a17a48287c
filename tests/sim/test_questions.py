"""Sweeps and searches: what is asked, what is answered, and that an interrupted run goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kvhorizon.cli.commands.questions import find
from kvhorizon.errors import InputError
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import start
from kvhorizon.whatif.capacity_search import search, sought
from kvhorizon.whatif.goals import parse_goals
from kvhorizon.whatif.many import answer_all
from kvhorizon.whatif.question import Question, prepare
from kvhorizon.whatif.sweep import parse_axis, points

SMALL = Question("synthetic:chat", gpu="l4-24gb", kv_blocks=700, load=1.2, limit=120, policies=("fcfs",))


def without_timing(results):
    return {key: value for key, value in results.items() if key != "timing"}


def test_axes_are_spans_or_lists() -> None:
    assert parse_axis("load=0.6:1.5:0.3") == ("load", (0.6, 0.9, 1.2, 1.5))
    assert parse_axis("kv-blocks=100,200") == ("kv_blocks", (100, 200))
    assert parse_axis("gpu=l4-24gb") == ("gpu", ("l4-24gb",))


@pytest.mark.parametrize(
    "text", ["load", "lod=1", "load=", "load=a", "load=1:2", "load=2:1:1", "load=0:1:0", "tp=1,1", "load=0:1:1e-9"]
)
def test_a_bad_axis_is_told(text: str) -> None:
    with pytest.raises(InputError, match="sweep"):
        parse_axis(text)


def test_every_combination_is_asked_once() -> None:
    asked = points(SMALL, [parse_axis("load=1,2"), parse_axis("seed=3,4")])
    assert [(one.load, one.seed) for one in asked] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    with pytest.raises(InputError, match="once"):
        points(SMALL, [parse_axis("load=1"), parse_axis("load=2")])


def test_goals_have_units() -> None:
    goals = parse_goals("ttft_p99<=1500ms, goodput>=95%")
    assert [(goal.name, goal.at_most, goal.bound) for goal in goals] == [
        ("ttft_p99", True, 1.5),
        ("goodput", False, 0.95),
    ]
    entry = {"ttft_s": {"p99": 1.5}, "goodput": 0.94}
    assert [goal.met(entry) for goal in goals] == [True, False]
    assert not goals[0].met({"ttft_s": {"p99": None}})


@pytest.mark.parametrize(
    "text", ["", "ttft<=1", "ttft_p98<=1", "ttft_p99=1", "goodput>=1s", "ttft_p99<=1h", "goodput>=-"]
)
def test_a_bad_goal_is_told(text: str) -> None:
    with pytest.raises(InputError, match="find"):
        parse_goals(text)


def test_answers_are_the_same_in_a_pool_and_are_kept(tmp_path: Path) -> None:
    asked = points(SMALL, [parse_axis("load=0.8,1.2")])
    alone = answer_all(asked, 100)
    kept_in = tmp_path / "answers.jsonl"
    pooled = answer_all(asked, 100, workers=2, kept_in=kept_in)
    assert [without_timing(r) for r in pooled] == [without_timing(r) for r in alone]
    lines = kept_in.read_text().splitlines()
    assert len(lines) == 2
    kept_in.write_text(lines[0] + "\n" + lines[1][:100])  # as if interrupted while writing
    again = answer_all(asked, 100, kept_in=kept_in)
    assert [without_timing(r) for r in again] == [without_timing(r) for r in alone]
    finished = json.loads(lines[0])["results"]
    assert finished in again  # that answer was not computed again: even its timing is the same


def test_the_largest_load_is_between_one_that_holds_and_one_that_does_not() -> None:
    goals = parse_goals("ttft_p99<=20s")
    found = search(SMALL, "fcfs", goals, sought(prepare(SMALL).setup, "load"), lambda one: answer_all([one], 100)[0])
    held, failed = (sorted(v for v, met in found.tried if met is side) for side in (True, False))
    assert found.value == held[-1]
    assert failed
    assert held[-1] < failed[0] <= 1.021 * held[-1]


def test_the_smallest_pool_holds_and_none_is_told() -> None:
    goals = parse_goals("preemption_frequency<=0.01")
    what = sought(prepare(SMALL).setup, "kv_blocks")
    found = search(SMALL, "fcfs", goals, what, lambda one: answer_all([one], 100)[0])
    assert found.value is not None
    assert (found.value, True) in found.tried
    never = search(SMALL, "fcfs", parse_goals("ttft_p99<=0s"), what, lambda one: answer_all([one], 100)[0])
    assert never.value is None
    with pytest.raises(InputError, match="over"):
        sought(prepare(SMALL).setup, "tp")


def test_the_smallest_pool_is_found_for_capped_outputs_too(tmp_path: Path) -> None:
    """None below what the longest request needs uncut, since load is measured with that."""
    find(replace(SMALL, max_output_tokens=20), "preemption_frequency<=0.01", "kv_blocks", 100, tmp_path)
    (found,) = json.loads((tmp_path / "find.json").read_text())["found"]
    assert found["value"] <= 700


def test_the_fewest_replicas_hold_and_one_less_does_not() -> None:
    busy = replace(SMALL, load=2.5)
    goals = parse_goals("ttft_p99<=3s")
    found = search(busy, "fcfs", goals, sought(prepare(busy).setup, "replicas"), lambda one: answer_all([one], 100)[0])
    assert found.value is not None
    assert found.value > 1
    assert (found.value, True) in found.tried
    assert (found.value - 1, False) in found.tried


def test_clients_who_abandon_are_not_finished() -> None:
    asked = replace(SMALL, load=8.0, replicas=2, router="least-kv", patience_s=1.0)
    results = answer_all([asked], 100)[0]
    assert results["fleet"] == {"replicas": 2, "router": "least-kv", "patience_s": 1.0, "retries": 0}
    (entry,) = results["policies"]
    assert entry["finished"] < entry["requests"]
    assert (entry["over_bound"], results["hindsight_bound"]) == (None, None)


def test_outputs_are_cut_and_the_forecast_knows_the_cap() -> None:
    """Arrivals stay as they were, so that the load is less; no request gives more than the cap."""
    plain, cut = (prepare(replace(SMALL, max_output_tokens=most)).setup for most in (None, 50))
    assert plain.trace.output_tokens.max() > 50
    assert (cut.trace.output_tokens == plain.trace.output_tokens.clip(max=50)).all()
    assert (cut.trace.arrival_s == plain.trace.arrival_s).all()
    engine, _ = start(cut, parse_policy("fcfs"))
    assert set(engine.columns.limit.tolist()) == {50}
    results = answer_all([replace(SMALL, max_output_tokens=50)], 100)[0]
    assert results["max_output_tokens"] == 50
    assert results["trace"]["output_tokens"] == int(cut.trace.output_tokens.sum())
    with pytest.raises(InputError, match="max-output-tokens=0"):
        prepare(replace(SMALL, max_output_tokens=0))


def test_a_cap_that_cuts_nothing_changes_no_replay() -> None:
    plain, loose = (answer_all([replace(SMALL, max_output_tokens=most)], 100)[0] for most in (None, 100_000))
    assert plain["policies"] == loose["policies"]


def test_caps_and_failures_may_be_swept() -> None:
    asked = points(SMALL, [parse_axis("max-output-tokens=20,40"), parse_axis("fail_at_s=5:15:10")])
    assert [(one.max_output_tokens, one.fail_at_s) for one in asked] == [(20, 5), (20, 15), (40, 5), (40, 15)]


def test_what_a_failure_cost_stands_beside_each_policy() -> None:
    """The engine is away for 20 s: who came meanwhile waits for it. Without it all is as in a question without it."""
    asked = replace(SMALL, load=0.7, limit=120, fail_at_s=10.0, down_for_s=20.0)
    results, calm = (answer_all([one], 100)[0] for one in (asked, replace(asked, fail_at_s=None)))
    assert results["failure"] == {"at_s": 10.0, "down_for_s": 20.0}
    (entry,), (without,) = results["policies"], calm["policies"]
    cost = entry["failure"]
    assert cost["requests_interrupted"] > 0
    assert cost["kv_tokens_lost"] > 0
    assert cost["ttft_mean_more_s"] == pytest.approx(entry["ttft_s"]["mean"] - without["ttft_s"]["mean"])
    assert cost["recompute_tokens_more"] == entry["recompute_tokens"] - without["recompute_tokens"]
    assert cost["ttft_p99_more_s"] > 5.0
    assert cost["unserved_more"] == 0
    assert calm["failure"] is None
    assert "failure" not in without
    with pytest.raises(InputError, match="fail-at-s"):
        prepare(replace(asked, fail_at_s=-1.0))


def test_an_answer_for_other_arguments_is_not_taken(tmp_path: Path) -> None:
    kept_in = tmp_path / "answers.jsonl"
    answer_all([SMALL], 100, kept_in=kept_in)
    other = answer_all([replace(SMALL, load=0.5)], 100, kept_in=kept_in)[0]
    assert other["load"] == 0.5
