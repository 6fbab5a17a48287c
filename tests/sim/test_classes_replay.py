"""Classes of service in whole replays: weights move waiting from the heavy to the light, and nothing else changes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from engines import facts, random_trace
from typer.testing import CliRunner

from kvhorizon.cli.app import app
from kvhorizon.errors import InputError
from kvhorizon.models.slo.classes import read_classes
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.whatif.many import answer
from kvhorizon.whatif.question import Question, prepare

NAMES = ("interactive", "batch")
CLASSES = {"interactive": {"weight": 8.0, "ttft_s": 2.0}, "batch": {"weight": 0.25}}


def setup(classes: dict[str, object], requests: int = 300) -> Setup:
    """One in four is interactive, whatever its size."""
    trace = random_trace(5, requests, 120 * 16, 30.0)
    mine = np.random.default_rng(0).random(requests) < 0.25
    named = dataclasses.replace(trace, slo_class=tuple(NAMES[0] if one else NAMES[1] for one in mine))
    return Setup(named, facts(400, 16, 64, 512), forecast="noisy:0.6", classes=read_classes(classes))


def waits(asked: Setup, outcome: Outcome) -> list[float]:
    """Mean time to first token of the two classes."""
    ttft, names = outcome.first_token_s - asked.trace.arrival_s, np.array(asked.trace.slo_class)
    return [float(ttft[names == name].mean()) for name in NAMES]


@pytest.mark.parametrize("name", ["kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon", "kvhorizon/means"])
def test_the_interactive_wait_less_and_the_batch_pays(name: str) -> None:
    policy, found = parse_policy(name), []
    for classes in ({}, CLASSES):
        asked = setup(classes)
        solver = InProcess(policy.planner or Knob.BALANCED, 100)
        outcome = replay(asked, policy, solver if policy.planner else None)
        assert np.isfinite(outcome.finish_s).all()
        found.append(waits(asked, outcome))
    (plain, plain_batch), (weighed, weighed_batch) = found
    assert weighed < 0.75 * plain
    assert weighed < weighed_batch
    assert weighed_batch < 2.0 * plain_batch


@pytest.mark.parametrize("name", ["fcfs", "kvhorizon:greedy", "kvhorizon:greedy/strict", "kvhorizon:greedy/means"])
def test_equal_weights_and_others_schedulers_do_as_without(name: str) -> None:
    """To the last bit; promises of later tokens alone change nothing."""
    told = {} if name == "fcfs" else {"batch": {"tpot_s": 0.1}, "default": {"weight": 1.0}}
    before, after = (replay(setup(one), parse_policy(name)) for one in ({}, told or CLASSES))
    np.testing.assert_array_equal(before.finish_s, after.finish_s)
    np.testing.assert_array_equal(before.first_token_s, after.first_token_s)


@pytest.mark.parametrize("name", ["kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon"])
def test_promised_first_tokens_come_in_time_more_often(name: str) -> None:
    """No class weighs more than another; all who were promised nothing wait a little longer."""
    policy, kept = parse_policy(name), []
    for classes in ({}, {"interactive": {"ttft_s": 4.0}}):
        asked = setup(classes)
        outcome = replay(asked, policy, InProcess(policy.planner, 100) if policy.planner else None)
        ttft, names = outcome.first_token_s - asked.trace.arrival_s, np.array(asked.trace.slo_class)
        assert np.isfinite(outcome.finish_s).all()
        kept.append(float((ttft[names == "interactive"] <= 4.0).mean()))
    assert kept[1] > kept[0] + 0.1


def shared(shares: dict[str, float], requests: int = 400) -> Setup:
    """Tenant 0 floods the engine at once; tenant 1 asks for as much, one by one."""
    trace = random_trace(7, requests, 120 * 16, 8.0)
    flood = np.arange(requests) % 2 == 0
    arrival_s = np.where(flood, 0.0, trace.arrival_s)
    order = np.argsort(arrival_s, kind="stable")
    named = dataclasses.replace(
        trace,
        arrival_s=arrival_s[order],
        prompt_tokens=trace.prompt_tokens[order],
        output_tokens=trace.output_tokens[order],
        key=np.where(flood, 0, 1)[order],
    )
    told = {"tenants": {name: {"share": share} for name, share in shares.items()}}
    return Setup(named, facts(400, 16, 64, 512), forecast="noisy:0.6", classes=read_classes(told))


@pytest.mark.parametrize("name", ["kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon"])
def test_shares_keep_a_flood_from_making_the_other_tenant_wait(name: str) -> None:
    policy, found = parse_policy(name), []
    for shares in ({}, {"0": 0.1, "1": 0.9}):
        asked = shared(shares)
        outcome = replay(asked, policy, InProcess(policy.planner, 100) if policy.planner else None)
        ttft = outcome.first_token_s - asked.trace.arrival_s
        found.append([float(ttft[asked.trace.key == tenant].mean()) for tenant in (0, 1)])
    assert found[1][1] < 0.8 * found[0][1]
    assert found[1][0] < 2.0 * found[0][0]


@pytest.mark.parametrize("name", ["kvhorizon:greedy", "kvhorizon:greedy/means", "kvhorizon"])
def test_shares_that_no_request_exceeds_change_nothing(name: str) -> None:
    """To the last bit, though weights are looked at each tick."""
    policy, found = parse_policy(name), []
    for shares in ({}, {"0": 1.0}):
        found.append(replay(shared(shares), policy, InProcess(policy.planner, 100) if policy.planner else None))
    np.testing.assert_array_equal(found[0].finish_s, found[1].finish_s)


def test_classes_need_a_trace_that_names_them() -> None:
    with pytest.raises(InputError, match="must come with a trace whose requests name a class"):
        prepare(Question("synthetic:chat", limit=10, classes=json.dumps(CLASSES)))


def test_fleets_know_of_classes() -> None:
    told = json.dumps({"chat": {"weight": 4, "ttft_s": 2.0}})
    question = Question("synthetic:mixed", gpu="a100-40gb", limit=80, load=1.3, policies=("kvhorizon:greedy",))
    results = answer(dataclasses.replace(question, classes=told, replicas=2), 100)
    (row,) = results["policies"]
    assert row["classes"]["chat"]["requests"] + row["classes"]["default"]["requests"] == 80
    assert 0.0 <= row["slo_attainment"] <= 1.0


def test_the_command_shows_each_class(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[chat]\nweight = 4\nttft_s = 2.0\n[long]\nweight = 0.5\n")
    asked = ["what-if", "synthetic:mixed", "--gpu", "a100-40gb", "--load", "1.3", "--limit", "120"]
    told = [*asked, "--policy", "fcfs", "--policy", "kvhorizon:greedy", "--classes", str(tmp_path / "c.toml")]
    done = CliRunner().invoke(app, [*told, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "classes of service" in done.output
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["classes"] == {"chat": {"weight": 4.0, "ttft_s": 2.0}, "long": {"weight": 0.5}, "default": {}}
    assert list(results["policies"][0]["classes"]) == ["chat", "long"]
    page = (tmp_path / "out/report.html").read_text()
    assert 'id="classes-table"' in page
    assert "long: TTFT p99, s" in page
