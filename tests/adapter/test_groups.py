"""A trained model in the plugin: its groups begin with what it knows, what is seen corrects them, and nothing fails."""

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import request, scheduler

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.forecasting.finished import Ended
from kvhorizon.adapter.forecasting.forecaster import GROUP_ROWS, Forecaster, Tables, curve_of, place
from kvhorizon.adapter.forecasting.groups import MOST_NODES, UNKNOWN, Groups, groups_of
from kvhorizon.adapter.forecasting.hints import Hint
from kvhorizon.adapter.forecasting.intake import Intake
from kvhorizon.adapter.forecasting.keys import (
    MOST_GROUPS,
    chains_of,
    group_keys,
    hint_leaf,
    leaf_of,
    level_of,
    source_of,
)
from kvhorizon.models.forecast.learned.features import Inputs
from kvhorizon.models.forecast.learned.learned import LearnedModel, save_model
from kvhorizon.models.forecast.learned.trees import Trees
from kvhorizon.models.forecast.scoring import quantile

SHORT, LONG = 20, 400  # tokens of the two groups of `stump`


def stump(inputs: Inputs = Inputs(), seeds: int = 200) -> LearnedModel:
    """Prompts up to 100 tokens are group 0 and give SHORT, others are group 1 and give LONG."""
    trees = Trees(*(np.array(c) for c in ([0], [0], [0, -1, -1], [100.0, 3.0, 6.0], [1, -1, -1], [2, -1, -1])))
    rng = np.random.default_rng(0)
    which = np.arange(seeds) % 2
    lengths = np.where(which, LONG, SHORT) * np.exp(0.2 * rng.standard_normal(seeds))
    pairs = np.stack([which, lengths.astype(np.int64)], axis=1)
    return LearnedModel(trees, np.zeros(1), np.array([[3.0], [6.0]]), np.array([0, 1]), pairs, {}, inputs)


def intake_of(groups: Groups | None) -> tuple[Intake, Rows, Forecaster]:
    forecaster = Forecaster(groups=groups)
    rows = Rows(8, forecaster.tables)
    return Intake(Engine(scheduler(max_model_len=1 << 22)), rows, forecaster), rows, forecaster


def leaf(group: int, tenant: str = "", **more: Any) -> int:
    return leaf_of(request("r", **more), tenant, more.pop("hint", None), 100, 1000, group)


def test_chains_of_groups_meet_no_other_and_tenants_come_second() -> None:
    plain, grouped = leaf(UNKNOWN, "acme"), leaf(3, "acme")
    both = chains_of(np.array([plain, grouped, leaf(MOST_GROUPS - 1, "acme")]))
    assert len(np.unique(both)) == 12
    assert (both > 0).all()
    assert [[level_of(key) for key in chain] for chain in both.tolist()] == [[1, 2, 3, 4]] * 3
    other = chains_of(np.array([leaf(3, "other")]))[0]
    assert (both[1] == other).tolist() == [True, False, False, False]
    structured = chains_of(np.array([leaf(3, "acme", structured_output_request=object())]))[0]
    assert (both[1] == structured).tolist() == [True, True, False, False]
    assert group_keys(np.array([3]))[0, 0] == both[1, 0]
    assert source_of(plain) == source_of(grouped)
    assert hint_leaf(plain, Hint(7.0)) == hint_leaf(grouped, Hint(7.0))


def median(tables: Tables, of: int) -> float:
    row, scale = curve_of(tables, of)
    (curve,), (scales,) = place(tables, np.array([of]), np.zeros(1, np.int64), np.zeros(1))
    assert (row, scale) == (curve, scales)
    return float(quantile(tables.survival[row], scale, 0.5))


def teach(forecaster: Forecaster, of: int, tokens: float, times: int) -> None:
    rng = np.random.default_rng(1)
    for handle in range(times):
        length = max(1, round(tokens * float(np.exp(0.2 * rng.standard_normal()))))
        forecaster.arrived(handle, of, 0, 0.0, 1 << 20)
        forecaster.finished(Ended(handle, of, 0, 0.0, length, False, False))
        forecaster.learn()


def test_groups_begin_with_the_lengths_that_the_model_has_of_them() -> None:
    tables = Forecaster(groups=Groups(stump(), "m")).tables
    assert len(tables.survival) > GROUP_ROWS
    for tenant in ("", "acme"):
        assert median(tables, leaf(0, tenant)) == pytest.approx(SHORT, rel=0.3)
        assert median(tables, leaf(1, tenant)) == pytest.approx(LONG, rel=0.3)
    assert SHORT < median(tables, leaf(UNKNOWN)) < LONG


def test_a_model_that_has_become_wrong_is_corrected() -> None:
    """Group 0 gives a hundred times what it gave; the other group stays as it is."""
    forecaster = Forecaster(groups=Groups(stump(), "m"))
    teach(forecaster, leaf(0), 100.0 * SHORT, 150)
    assert median(forecaster.tables, leaf(0)) == pytest.approx(100 * SHORT, rel=0.15)
    assert median(forecaster.tables, leaf(0, "stranger")) == pytest.approx(100 * SHORT, rel=0.3)
    teach(forecaster, leaf(1), LONG, 150)
    assert median(forecaster.tables, leaf(1)) == pytest.approx(LONG, rel=0.15)


def test_what_was_learned_of_groups_survives_restarts(tmp_path: Path) -> None:
    first = Forecaster(groups=Groups(stump(), "m"))
    teach(first, leaf(0), 100.0 * SHORT, 150)
    first.save(tmp_path)
    second = Forecaster(groups=Groups(stump(), "m"))
    second.restore(tmp_path)
    assert median(second.tables, leaf(0)) == pytest.approx(100 * SHORT, rel=0.15)
    third = Forecaster(groups=Groups(stump(), "m"))
    third.restore(tmp_path / "nothing")
    assert median(third.tables, leaf(0)) == pytest.approx(SHORT, rel=0.3)


def test_a_request_keeps_its_group_and_is_forgotten_when_it_is_over() -> None:
    groups = Groups(stump(), "m")
    intake, _, _ = intake_of(groups)
    intake.add(request("a", 50), 0.0, 0.0)
    groups.arrived(request("a", 5000), 0.0, 0.0)  # the same request again
    assert (groups.of("a"), groups.of("b")) == (0, UNKNOWN)
    intake.left(request("a"))
    assert groups.of("a") == UNKNOWN
    intake.add(request("c", 5000), 0.0, 0.0)
    intake.rebuild(0.0, 0.0)  # the engine knows no request
    assert groups.of("c") == UNKNOWN


def test_a_model_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    groups = Groups(stump(), "m")
    intake, rows, _ = intake_of(groups)

    def broken(*_: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(LearnedModel, "groups", broken)
    for name in ("a", "b"):
        intake.add(request(name, 100), 0.0, 0.0)
    slots = intake.enter()
    assert [rows.extra.key[slot] for slot in slots] == [leaf_of(request("x", 100), "", None, 100, 1 << 20)] * 2
    assert groups.errors == len(caplog.records) == 1


def test_a_tenant_of_no_use_is_none() -> None:
    groups = Groups(stump(Inputs(session=True)), "m")
    for number, said in enumerate(({"tenant": 3}, {"session": ["x"]}, {"session": "x" * 100}, {"session": "x"})):
        sampling = SimpleNamespace(temperature=1.0, stop=[], min_tokens=0, extra_args=said)
        groups.arrived(request(f"r{number}", 50, sampling_params=sampling), 0.0, 0.0)
        assert groups.of(f"r{number}") == 0
    assert groups.errors == 0


def huge(nodes: int) -> Trees:
    """A tree of one leaf, and others that nothing reaches."""
    root, none = np.zeros(1, np.int64), np.full(nodes, -1)
    return Trees(root, root, none, np.zeros(nodes), none, none)


@pytest.mark.parametrize(
    ("model", "prefix_tokens", "says"),
    [
        (None, 16, "must be a readable file"),
        ("text", 16, "must be JSON"),
        (stump(Inputs(16)), 0, "needs prefix caching"),
        (stump(Inputs(16)), 32, "must be of blocks of 32 tokens"),
        (dataclasses.replace(stump(), trees=huge(MOST_NODES + 1)), 16, f"at most {MOST_NODES} nodes"),
        (
            dataclasses.replace(stump(), centres=np.zeros((MOST_GROUPS + 1, 1)), coarse=np.zeros(MOST_GROUPS + 1, int)),
            16,
            f"at most {MOST_GROUPS} groups",
        ),
    ],
)
def test_a_file_of_no_use_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: Any, prefix_tokens: int, says: str
) -> None:
    path = tmp_path / "model.json"
    if isinstance(model, str):
        path.write_text(model)
    elif model is not None:
        save_model(model, path)
    with caplog.at_level(logging.INFO):
        assert groups_of(path, prefix_tokens) is None
    (line,) = caplog.messages
    assert line.startswith("kvhorizon forecasts with the history alone: ")
    assert says in line
    assert "\n" not in line


def test_a_model_says_that_it_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(stump(Inputs(16)), tmp_path / "model.json")
    with caplog.at_level(logging.INFO, "kvhorizon"):
        found = groups_of(tmp_path / "model.json", 16)
    assert found is not None
    assert "2 groups" in caplog.text
    save_model(stump(Inputs(16), seeds=100), tmp_path / "other.json")
    other = groups_of(tmp_path / "other.json", 16)
    assert other is not None
    assert other.name != found.name
    assert groups_of(None, 16) is None
