"""Learned forecasts: features without a future, trees as arrays, files that are checked, training that refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kvhorizon.cli import app
from kvhorizon.errors import InputError
from kvhorizon.models.features import FEATURES, Recorded, features_of
from kvhorizon.models.learned import LearnedModel, load_model, nearest, save_model
from kvhorizon.models.prequential import finish_times
from kvhorizon.models.trees import Trees, from_lightgbm, predict


def recorded(size: int = 1500, informative: bool = True, seed: int = 0) -> Recorded:
    """Requests whose output is a twentieth of their prompt, give or take, or has nothing to do with it."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(512, 4096, size)  # one class of the history
    base = prompt if informative else rng.permutation(prompt)
    output = np.maximum(1, base * np.exp(0.1 * rng.standard_normal(size)) / 20).astype(np.int64)
    arrival_s = np.cumsum(rng.exponential(0.3, size))
    return Recorded(arrival_s, finish_times(arrival_s, output), prompt, output, np.zeros(size, np.int64))


def stump() -> LearnedModel:
    """One quantile; prompts up to 100 tokens give 3, longer ones 6 [log tokens]."""
    trees = Trees(*(np.array(c) for c in ([0], [0], [0, -1, -1], [100.0, 3.0, 6.0], [1, -1, -1], [2, -1, -1])))
    return LearnedModel(trees, np.zeros(1), np.array([[3.0], [6.0]]), np.array([0, 1]), np.array([[0, 20]]), {})


def test_features_know_only_what_arrived_and_finished_before() -> None:
    """Cutting the future off changes no feature of the past."""
    whole = recorded(300)
    half = Recorded(*(column[:150] for column in whole[:5]))
    assert features_of(whole)[:150].tolist() == features_of(half).tolist()


def test_features_of_a_conversation() -> None:
    """Its second turn shares two blocks of 100 tokens with the first, which ended after 40 tokens, 5 s before."""
    prefix = (np.array([1, 2]), np.array([1, 2, 3]))
    requests = Recorded(
        np.array([0.0, 5.0]), np.array([2.0, 9.0]), np.array([210, 330]), np.array([40, 7]), np.zeros(2, np.int64),
        None, prefix, 100,
    )  # fmt: skip
    first, second = features_of(requests)
    assert dict(zip(FEATURES, first, strict=True))["previous_output_tokens"] == -1
    assert second[:7].tolist() == [330, 200, 130, 5.0, 40, 120, 1]
    assert second[7] == pytest.approx(np.log(40))


def test_trees_send_small_values_left_and_sum_their_leaves() -> None:
    tree = {
        "tree_structure": {
            "split_feature": 1,
            "threshold": 2.5,
            "left_child": {"leaf_value": -1.0},
            "right_child": {
                "split_feature": 0,
                "threshold": 0.0,
                "left_child": {"leaf_value": 5.0},
                "right_child": {"leaf_value": 7.0},
            },
        }
    }
    trees = from_lightgbm([{"tree_info": [tree, tree]}, {"tree_info": [tree]}])
    out = np.zeros((3, 2))
    predict(trees, np.array([[9.0, 2.5], [0.0, 3.0], [1.0, 3.0]]), out)
    assert out.tolist() == [[-2, -1], [10, 5], [14, 7]]


def test_requests_fall_into_the_nearest_group() -> None:
    features = np.full((3, len(FEATURES)), -1.0)
    features[:, 0] = [50, 100, 101]
    assert stump().groups(features).tolist() == [0, 0, 1]
    keys = stump().keys(features, np.array([0, 1, 1]))
    assert len(np.unique(keys)) == 2 + 2 + 3
    assert nearest(np.array([[0.0, 1.0]]), np.array([[5.0, 5.0], [0.0, 2.0]])).tolist() == [1]


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    save_model(stump(), tmp_path / "model.json")
    again = load_model(tmp_path / "model.json")
    features = np.random.default_rng(0).uniform(0, 200, (50, len(FEATURES)))
    assert again.groups(features).tolist() == stump().groups(features).tolist()


@pytest.mark.parametrize(
    ("part", "value", "names"),
    [
        ("version", 99, "version 1"),
        ("features", ["prompt_tokens"], "model features"),
        ("trees", {"root": [0]}, "must be complete"),
        ("centres", [[1.0, 2.0]], "model centres"),
        ("seeds", [[7, 3]], "model seeds"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, part: str, value: object, names: str) -> None:
    path = tmp_path / "model.json"
    save_model(stump(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    with pytest.raises(InputError, match=names):
        load_model(path)


def test_a_tree_that_would_never_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    save_model(stump(), path)
    parts = json.loads(path.read_text())
    parts["trees"]["left"][0] = 0
    path.write_text(json.dumps(parts))
    with pytest.raises(InputError, match="children beyond their parents"):
        load_model(path)


def test_no_file_and_no_json_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a readable file"):
        load_model(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("pickle?")
    with pytest.raises(InputError, match="must be JSON"):
        load_model(tmp_path / "text.json")


def write_csv(path: Path, requests: Recorded) -> Path:
    lines = ["arrival_s,prompt_tokens,output_tokens"]
    columns = zip(requests.arrival_s.tolist(), requests.prompt_tokens, requests.output_tokens, strict=True)
    lines += [f"{arrival},{prompt},{output}" for arrival, prompt, output in columns]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_training_finds_what_the_history_cannot_see(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    trace, out = write_csv(tmp_path / "trace.csv", recorded()), tmp_path / "model.json"
    done = CliRunner().invoke(app, ["train", str(trace), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    report = load_model(out).report
    assert report["pinball_learned"] < 0.7 * report["pinball_history"]
    assert report["coverage80_learned"] == pytest.approx(0.8, abs=0.06)


def test_training_refuses_what_is_no_better_than_the_history(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    trace, out = write_csv(tmp_path / "trace.csv", recorded(informative=False)), tmp_path / "model.json"
    with pytest.raises(InputError, match="better than the history"):
        CliRunner().invoke(app, ["train", str(trace), "--out", str(out)], catch_exceptions=False)
    assert not out.exists()


def test_training_refuses_a_short_recording(tmp_path: Path) -> None:
    trace = write_csv(tmp_path / "trace.csv", recorded(300))
    with pytest.raises(InputError, match="must hold 500 requests"):
        CliRunner().invoke(app, ["train", str(trace), "--out", "x"], catch_exceptions=False)
