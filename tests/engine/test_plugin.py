"""The scheduler plugin in vLLM's real scheduler: unseen while it observes, and never in the way of a request."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine._plugin_driver import check_whole, drive, workload
from experiments.engine._plugin_engine import Setup
from kvhorizon.adapter import plugin as plugin_module
from kvhorizon.adapter.accounting.recomputation import Accounting
from kvhorizon.adapter.control import step_policy as rule_module
from kvhorizon.adapter.forecasting.forecaster import HINT_SCALE
from kvhorizon.adapter.modes import Mode
from kvhorizon.adapter.plugin import ENTER_MOST


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("mode", ["off", "observe", "advise"])
def test_measuring_changes_nothing(mode: str, asynchronous: bool) -> None:
    plain = drive(Setup(plugin=False, asynchronous=asynchronous)).run(workload(60, seed=1))
    settings = {"local_only": True, "mode": mode}
    ours = drive(Setup(asynchronous=asynchronous, settings=settings)).run(workload(60, seed=1))
    assert ours.steps == plain.steps
    assert ours.trace == plain.trace
    plugin = ours.scheduler.kvhorizon
    assert plugin.guard.total == plugin.account_guard.total == 0
    assert plugin.accounting.total.preemptions > 0
    assert plugin.accounting.total.recompute_tokens > 0


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("caching", [False, True])
def test_control_serves_all_requests(asynchronous: bool, policy: str, caching: bool) -> None:
    requests = workload(80, seed=2, caching=caching, shared=64 if caching else 0, priorities=3)
    setup = Setup(asynchronous=asynchronous, policy=policy, caching=caching)
    ours = drive(setup).run(requests)
    check_whole(ours.scheduler, requests, setup.blocks)
    plugin = ours.scheduler.kvhorizon
    assert plugin.guard.total == plugin.account_guard.total == 0
    assert plugin.ladder["local"] > 0
    assert plugin.mode is Mode.CONTROL


HOOKS = ["before_schedule", "after_schedule", "added", "preempted", "released"]
INSIDE = {
    "before_schedule": ("control", "act"),
    "after_schedule": ("admitted", "take"),
    "added": ("intake", "add"),
    "preempted": ("rows", "wait"),
    "released": ("rows", "release"),
}


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_plugin_that_fails_is_as_none(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault stays: the plugin retires after a few errors, and every step is plain vLLM's."""
    plain = drive(Setup(plugin=False)).run(workload(60, seed=1))
    ours = drive(Setup())
    plugin = ours.scheduler.kvhorizon
    owner = getattr(plugin, INSIDE[hook][0])
    monkeypatch.setattr(owner, INSIDE[hook][1], broken)
    monkeypatch.setattr(plugin.control, "act" if hook != "before_schedule" else "advise", lambda *_: None)
    requests = workload(60, seed=1)
    ours.run(requests)
    assert ours.trace == plain.trace
    assert plugin.guard.total > 0
    assert all(request.is_finished() for request in requests)


def test_a_plugin_that_fails_halfway_hides_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is already the plugin's when the error comes."""
    ours = drive(Setup())
    plugin = ours.scheduler.kvhorizon
    whole = plugin.control.stage.present

    def present(scheduler: object, shown: list) -> None:
        whole(scheduler, shown)
        raise RuntimeError("planted")

    monkeypatch.setattr(plugin.control.stage, "present", present)
    requests = workload(60, seed=1)
    ours.run(requests)
    check_whole(ours.scheduler, requests, 160)
    assert plugin.guard.retired


def test_an_error_of_the_engine_passes_through_and_loses_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = drive(Setup())
    requests = workload(60, seed=1)
    for request in requests:
        ours.scheduler.add_request(request)
    for _ in range(20):
        ours.step()
    waiting = list(ours.scheduler.waiting)
    assert waiting
    with monkeypatch.context() as patch:
        patch.setattr(ours.scheduler.kv_cache_manager, "new_step_starts", broken)
        with pytest.raises(RuntimeError, match="planted"):
            ours.scheduler.schedule()
    assert list(ours.scheduler.waiting) == waiting
    ours.run([])
    check_whole(ours.scheduler, requests, 160)


def test_broken_accounting_leaves_scheduling_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = drive(Setup())
    plugin = ours.scheduler.kvhorizon
    monkeypatch.setattr(Accounting, "_chunk", broken)
    ours.run(workload(60, seed=1))
    assert plugin.account_guard.failures["scheduled"] > 0
    assert plugin.guard.total == 0


def test_the_kill_switch_works_within_a_step_and_back(tmp_path: Path) -> None:
    switch = tmp_path / "off"
    ours = drive(Setup(settings={"local_only": True, "kill_switch": str(switch)}))
    for request in workload(60, seed=1):
        ours.scheduler.add_request(request)
    plugin = ours.scheduler.kvhorizon
    seen = []
    for step in range(40):
        if step in (10, 30):
            switch.touch() if step == 10 else switch.unlink()
        ours.step()
        seen.append(plugin.mode)
    assert seen == [Mode.CONTROL] * 10 + [Mode.OFF] * 20 + [Mode.CONTROL] * 10


def test_a_retired_plugin_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = drive(Setup())
    plugin = ours.scheduler.kvhorizon
    requests = workload(60, seed=1)
    for request in requests:
        ours.scheduler.add_request(request)
    with monkeypatch.context() as patch:
        patch.setattr(plugin.control, "act", broken)
        for _ in range(10):
            ours.step()
    assert plugin.guard.retired
    plugin.recall()
    before = plugin.ladder["local"]
    ours.run([])
    assert plugin.ladder["local"] > before
    assert not plugin.guard.retired
    check_whole(ours.scheduler, requests, 160)


def test_a_flood_gets_its_rows_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a long queue does not rest: the few of the end would wait for theirs until it is looked at."""
    monkeypatch.setattr(rule_module, "MANY", 1 << 30)
    ours = drive(Setup())
    plugin = ours.scheduler.kvhorizon
    requests = workload(2 * ENTER_MOST + 9, seed=1, prompt=(5, 20), output=(2, 5))
    for request in requests:
        ours.scheduler.add_request(request)
    ours.abort(requests[-1].request_id)  # it has no row yet
    seen = []
    while plugin.intake.outside:
        ours.step()
        seen.append(len(plugin.intake.outside))
    assert seen == [ENTER_MOST + 8, 8, 0]
    ours.run([])
    check_whole(ours.scheduler, requests, 160)
    assert plugin.guard.total == 0


def test_whoever_the_engine_takes_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request gets one beforehand: the plugin has no request to choose from, and an idle engine chooses by
    itself."""
    monkeypatch.setattr(plugin_module, "ENTER_MOST", 0)
    ours = drive(Setup())
    requests = workload(60, seed=1)
    ours.run(requests)
    check_whole(ours.scheduler, requests, 160)
    assert ours.scheduler.kvhorizon.guard.total == 0


def test_hints_reach_the_forecast() -> None:
    ours = drive(Setup())
    plugin = ours.scheduler.kvhorizon
    for extra in ({"pred_len": 500}, {"pred_len": "nonsense" * 20}):
        for request in workload(1, seed=1, extra=extra):
            request.request_id = str(extra["pred_len"])[:8]
            ours.scheduler.add_request(request)
    plugin.intake.enter()
    slot = plugin.rows.slot_of["500"]
    assert plugin.rows.extra.scale[slot] == 500.0 * HINT_SCALE
    assert plugin.hints == {"used": 1, "ignored": 1}


def test_preemptions_and_recompute_fall_under_control() -> None:
    """What the plugin is for: outputs longer than prompts on a pool that is too small."""
    found = {}
    for mode in ("observe", "control"):
        ours = drive(Setup(blocks=1500, seats=128, settings={"local_only": True, "mode": mode, "knob": "means"}))
        requests = workload(300, seed=5, prompt=(20, 100), output=(50, 400))
        ours.run(requests)
        check_whole(ours.scheduler, requests, 1500)
        found[mode] = (ours.scheduler.kvhorizon.accounting.total, len(ours.steps))
    assert found["control"][0].preemptions < 0.3 * found["observe"][0].preemptions
    assert found["control"][0].recompute_tokens < 0.4 * found["observe"][0].recompute_tokens
    assert found["control"][1] < 1.05 * found["observe"][1]


@pytest.mark.parametrize("mode", ["observe", "control"])
def test_lengths_are_learned_whoever_decides(mode: str, tmp_path: Path) -> None:
    settings = {"local_only": True, "mode": mode, "state": str(tmp_path)}
    ours = drive(Setup(settings=settings)).run(workload(120, seed=7, extra={"pred_len": 30, "tenant": "acme"}))
    plugin = ours.scheduler.kvhorizon
    ours.scheduler.shutdown()  # takes in the rest, and saves
    assert plugin.learner.errors == 0
    assert plugin.forecaster.health.finished > 60  # scored; the others ended before their forecast was noted
    assert len(plugin.forecaster.tables.rows) >= 1
    again = drive(Setup(settings=settings)).scheduler.kvhorizon
    assert len(again.forecaster.tables.rows) >= 1
