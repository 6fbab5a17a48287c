"""The guardrail on vLLM's scheduler, under a virtual clock: a planted bad rule is stopped, the plugin's own is not."""

import logging

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from prometheus_client import CollectorRegistry

from experiments.virtual._guardrail_drive import Load, VirtualEngine
from experiments.virtual._guardrail_rules import BAD
from kvhorizon.adapter.modes import Mode

BUSY = Load("busy", lambda _: 2.5, 2.5)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    family = next(one for one in registry.collect() if one.name == name.removesuffix("_total"))
    found = (one.value for one in family.samples if one.name == name and labels.items() <= one.labels.items())
    return next(found, None)


def test_a_bad_rule_is_stopped_within_two_minutes_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "kvhorizon")
    engine = VirtualEngine(BUSY, 0, {})
    guardrail, registry = engine.plugin.switch.guardrail, engine.plugin.telemetry.publisher.registry
    BAD["few_at_a_time"](engine.plugin)
    engine.run(lambda engine: guardrail.stepped_back or engine.now_s > 120.0)
    assert guardrail.stepped_back
    lines = [line for line in caplog.messages if "guardrail" in line]
    assert len(lines) == 1
    assert "vLLM decides alone for 10 minutes" in lines[0]
    until_s, decided = engine.now_s + 60.0, engine.plugin.ladder["local"]
    engine.run(lambda engine: engine.now_s > until_s)
    assert engine.plugin.ladder["local"] == decided  # all of that minute was vLLM's own
    assert engine.plugin.mode is Mode.OBSERVE
    engine.plugin.telemetry.collect()
    assert value(registry, "kvhorizon_guardrail_state", state="stepped_back") == 1.0
    assert value(registry, "kvhorizon_guardrail_switch_offs_total") == 1.0
    assert value(registry, "kvhorizon_guardrail_native_share") == 1.0
    assert engine.plugin.guard.total == engine.plugin.account_guard.total == 0
    engine.close()


def test_the_plugin_s_own_rules_go_on(caplog: pytest.LogCaptureFixture) -> None:
    engine = VirtualEngine(Load("clients", clients=50), 0, {})
    guardrail = engine.plugin.switch.guardrail
    engine.run(lambda engine: engine.now_s > 150.0)
    assert guardrail.pairs["counted"] > 20
    assert guardrail.switch_offs == 0
    assert engine.plugin.ladder["native"] > 0.3 * engine.plugin.ladder.total()  # of the first minutes
    assert not [line for line in caplog.messages if "guardrail" in line]
    assert "0 of" in guardrail.line()
    engine.close()


@pytest.mark.parametrize("settings", [{"guardrail": False}, {"canary": 0.5}])
def test_there_is_none_where_it_is_not_wanted_or_a_canary_runs(settings: dict[str, object]) -> None:
    engine = VirtualEngine(BUSY, 0, settings)
    assert engine.plugin.switch.guardrail is None
    engine.close()
