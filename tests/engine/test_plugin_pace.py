"""What the plugin learns of tokens per step, on vLLM's own scheduler."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine import _plugin_driver as driver
from experiments.engine._plugin_driver import drive, workload
from experiments.engine._plugin_engine import Setup
from kvhorizon.adapter.forecasting.learner import running_now


@pytest.mark.parametrize(("tokens", "asynchronous"), [(1, False), (1, True), (3, False)])
def test_tokens_per_step_are_those_of_the_engine(
    tokens: int, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tokens come out of each step of a decode, as where a speculator's drafts are always right."""
    plain = driver.ModelRunnerOutput

    def several(sampled_token_ids: list[list[int]], **rest: Any) -> Any:
        return plain(sampled_token_ids=[given * tokens for given in sampled_token_ids], **rest)

    monkeypatch.setattr(driver, "ModelRunnerOutput", several)
    engine = drive(Setup(blocks=4000, seats=24, asynchronous=asynchronous, settings={"local_only": True}))
    plugin = engine.scheduler.kvhorizon
    for request in workload(12, seed=3):
        engine.scheduler.add_request(request)
    for _ in range(6):
        for _ in range(10):
            engine.step()
        plugin.forecaster.watch(running_now(plugin.engine, plugin.rows, plugin.control.step))
    learned = plugin.forecaster.tables.tokens_per_step
    assert learned == pytest.approx(tokens, rel=0.05)
    assert plugin.losing.habits(learned).tokens_per_step == learned
