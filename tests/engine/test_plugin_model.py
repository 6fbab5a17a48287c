"""A trained model in vLLM's real scheduler: a fresh plugin tells kinds of request apart before any has ended."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine._plugin_driver import Drive, check_whole, drive, workload
from experiments.engine._plugin_engine import BLOCK, Setup
from kvhorizon.models.forecast.learned.features import FEATURES, Inputs
from kvhorizon.models.forecast.learned.learned import LearnedModel, save_model
from kvhorizon.models.forecast.learned.trees import Trees
from kvhorizon.models.forecast.scoring import quantile

SHORT, LONG = 20, 140  # tokens


def model_file(folder: Path, feature: str, threshold: float, inputs: Inputs = Inputs()) -> Path:
    """Requests at most at the threshold become SHORT, others LONG."""
    split = FEATURES.index(feature)
    columns = ([0], [0], [split, -1, -1], [threshold, 3.0, 5.0], [1, -1, -1], [2, -1, -1])
    trees = Trees(*(np.array(column) for column in columns))
    which = np.arange(300) % 2
    lengths = np.where(which, LONG, SHORT) * np.exp(0.2 * np.random.default_rng(0).standard_normal(300))
    seeds = np.stack([which, lengths.astype(np.int64)], axis=1)
    path = folder / "model.json"
    save_model(LearnedModel(trees, np.zeros(1), np.array([[3.0], [5.0]]), np.array([0, 1]), seeds, {}, inputs), path)
    return path


def engine(model: Path | None, **more: Any) -> Drive:
    settings = {"local_only": True} | ({} if model is None else {"model": str(model)})
    return drive(Setup(settings=settings, **more))


def median_of(made: Drive, name: str) -> float:
    """Of the forecast that the rules read for a request."""
    plugin = made.scheduler.kvhorizon
    slot = plugin.rows.slot_of[name]
    row, scale = plugin.rows.extra.curve[slot], plugin.rows.extra.scale[slot]
    return float(quantile(plugin.rows.tables.survival[row], scale, 0.5))


def two_kinds() -> list[Any]:
    """Prompts of 70 and of 200 tokens, of one class to the history; what they say they may give is the same."""
    requests = []
    for number, prompt in enumerate((70, 200)):
        (request,) = workload(1, seed=number, prompt=(prompt, prompt), output=(300, 300))
        request.request_id = f"{prompt}"
        requests.append(request)
    return requests


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_fresh_plugin_with_a_model_tells_kinds_apart(asynchronous: bool, tmp_path: Path) -> None:
    found = {}
    for model in (None, model_file(tmp_path, "prompt_tokens", 100.0)):
        made = engine(model, asynchronous=asynchronous)
        requests = two_kinds()
        for request in requests:
            made.scheduler.add_request(request)
        made.step()
        found[model is not None] = [median_of(made, request.request_id) for request in requests]
        made.run([])
        check_whole(made.scheduler, requests, 160)
        assert made.scheduler.kvhorizon.guard.total == 0
    assert found[False][0] == found[False][1]
    assert found[True] == pytest.approx([SHORT, LONG], rel=0.3)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_engines_own_block_hashes_tell_who_continues(asynchronous: bool, tmp_path: Path) -> None:
    """The second request begins with the 256 tokens of the first, the third with tokens of its own."""
    model = model_file(tmp_path, "cached_tokens", 100.0, Inputs(prefix_tokens=BLOCK))
    made = engine(model, asynchronous=asynchronous, caching=True)
    requests = [workload(1, seed=seed, prompt=(20, 20), caching=True, shared=256)[0] for seed in (1, 2)]
    requests += workload(1, seed=3, prompt=(276, 276), caching=True)
    for number, request in enumerate(requests):
        request.request_id = f"r{number}"
        made.scheduler.add_request(request)
    made.step()
    assert [median_of(made, f"r{n}") for n in range(3)] == pytest.approx([SHORT, LONG, SHORT], rel=0.3)
    made.run([])
    check_whole(made.scheduler, requests, 160)
    assert made.scheduler.kvhorizon.forecaster.groups.live == 0


@pytest.mark.parametrize("content", [None, "{}", '{"format": "kvhorizon-learned", "version": 2}'])
def test_a_model_of_no_use_leaves_the_plugin_with_its_history(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.json"
    if content is not None:
        path.write_text(content)
    with caplog.at_level(logging.WARNING):
        made = engine(path)
    assert sum("forecasts with the history alone" in line for line in caplog.messages) == 1
    requests = workload(30, seed=1)
    made.run(requests)
    check_whole(made.scheduler, requests, 160)
    assert made.scheduler.kvhorizon.guard.total == 0
