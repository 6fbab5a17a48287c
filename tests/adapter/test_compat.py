"""Which vLLM gets how much of the plugin, and evictions that lose no request."""

from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Status, request, scheduler

from kvhorizon.adapter.compat import Level, check, evict, parse_version


class Whole:
    """The methods that the plugin relies on, with their arguments."""

    def schedule(self) -> None: ...
    def add_request(self, request: Any) -> None: ...
    def _free_request(self, request: Any) -> None: ...
    def _update_after_schedule(self, scheduler_output: Any) -> None: ...
    def get_request_counts(self) -> None: ...
    def _preempt_request(self, request: Any, timestamp: float) -> None: ...


def whole(**model: Any) -> Any:
    """A scheduler with all of it."""
    found = Whole()
    config = SimpleNamespace(model_config=SimpleNamespace(**model))
    found.__dict__.update(vars(scheduler(vllm_config=config)))
    return found


@pytest.mark.parametrize(
    ("version", "level"),
    [("0.32.0", Level.FULL), ("0.26.1rc1+cu129", Level.FULL), ("0.28", Level.FULL), ("0.27.0", Level.ORDER),
     ("0.34.0", Level.ORDER), ("dev", Level.ORDER)],
)  # fmt: skip
def test_releases(version: str, level: Level) -> None:
    found = check(whole(), version)
    assert found.level is level
    assert "\n" not in found.reason


def test_what_is_missing_is_named() -> None:
    lacking = whole()
    del lacking.running
    found = check(lacking, "0.32.0")
    assert found.level is Level.NONE
    assert "running" in found.reason


def test_another_way_to_preempt_leaves_evictions_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whole, "_preempt_request", lambda self, victim: None)
    assert check(whole(), "0.32.0").level is Level.ORDER


@pytest.mark.parametrize("model", [{"is_diffusion": True}, {"runner_type": "pooling"}])
def test_models_that_generate_otherwise(model: dict[str, Any]) -> None:
    assert check(whole(**model), "0.32.0").level is Level.NONE


def test_a_queue_of_another_kind_is_left_alone() -> None:
    other = whole()
    other.waiting = []
    assert check(other, "0.32.0").level is Level.NONE
    other.policy = SimpleNamespace(value="priority")
    assert check(other, "0.32.0").level is Level.FULL


def test_versions() -> None:
    assert parse_version("0.32.1.dev3+g12") == (0, 32)
    assert parse_version("nonsense") == (0, 0)


def test_an_eviction_that_fails_loses_no_request() -> None:
    engine = scheduler()
    victim, other = request("a", status=Status.RUNNING), request("b", status=Status.RUNNING)
    engine.running += [victim, other]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    engine._preempt_request = fail
    with pytest.raises(RuntimeError, match="planted"):
        evict(engine, victim, 1.0)
    assert engine.running == [victim, other]


def test_the_workers_are_told_of_an_eviction() -> None:
    """vLLM 0.26 tells them of its own evictions only."""
    engine = scheduler(reset_preempted_req_ids=set(), requires_kv_delivery=True)
    victim = request("a", status=Status.RUNNING)
    engine.running.append(victim)
    seen = []
    engine._preempt_request = lambda one, at_s, **more: seen.append((one, more))
    evict(engine, victim, 1.0)
    assert engine.running == []
    assert engine.reset_preempted_req_ids == {"a"}
    assert seen == [(victim, {"drop_stale_output": True})]
