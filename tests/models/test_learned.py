"""Learned forecasts: features without a future, trees as arrays, files that are checked, training that refuses."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kvhorizon.cli.app import app
from kvhorizon.errors import InputError
from kvhorizon.models.forecast.learned.features import DAY_S, FEATURES, Finished, Inputs, Recorded, features_of
from kvhorizon.models.forecast.learned.learned import LearnedModel, load_model, nearest, save_model
from kvhorizon.models.forecast.learned.train import train
from kvhorizon.models.forecast.learned.trees import Trees, from_lightgbm, predict
from kvhorizon.models.forecast.prequential import finish_times


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


def named(row: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, row.tolist(), strict=True))


def test_features_of_the_day_and_of_sampling() -> None:
    """It began at six in the morning; the second request comes six hours later. 5 = structured + stop strings."""
    requests = recorded(2)._replace(
        arrival_s=np.array([0.0, DAY_S / 4]), began_s=1000 * DAY_S + DAY_S / 4, sampling=np.array([5, -1])
    )
    first, second = (named(row) for row in features_of(requests))
    assert (first["day_sine"], first["day_cosine"]) == pytest.approx((1.0, 0.0))
    assert (second["day_sine"], second["day_cosine"]) == pytest.approx((0.0, -1.0))
    assert [first[name] for name in ("structured", "greedy", "stops")] == [1, 0, 1]
    assert [second[name] for name in ("structured", "greedy", "stops")] == [-1, -1, -1]
    known = Inputs.of(requests)
    assert known == Inputs(hour=True, sampling=True)
    without = Inputs(hour=True).only(requests)
    assert (without.began_s, without.sampling) == (requests.began_s, None)


def test_hashes_of_small_blocks_are_looked_at_every_128_tokens() -> None:
    """Blocks of 16 tokens: the second request shares 20 of them, of which two times eight are seen."""
    chains = (np.arange(40), np.concatenate([np.arange(20), 100 + np.arange(20)]))
    requests = recorded(2)._replace(prompt_tokens=np.array([640, 650]), prefix_hashes=chains, prefix_tokens=16)
    assert named(features_of(requests)[1])["cached_tokens"] == 256


def test_before_anybody_has_ended_the_former_ones_speak() -> None:
    requests = recorded(1)
    assert features_of(requests)[0, FEATURES.index("tenant_log_output")] == 0.0
    assert features_of(requests, Finished(2.0, 10.0))[0, FEATURES.index("tenant_log_output")] == pytest.approx(5.0)
    model = stump()
    assert model.known == Finished(1.0, pytest.approx(np.log(20)))


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
    assert again.inputs == Inputs()
    for inputs in (Inputs(16, True, False, True), Inputs(hour=True)):
        save_model(dataclasses.replace(stump(), inputs=inputs), tmp_path / "model.json")
        assert load_model(tmp_path / "model.json").inputs == inputs


@pytest.mark.parametrize(
    ("part", "value", "names"),
    [
        ("version", 1, "version 2"),
        ("features", ["prompt_tokens"], "model features"),
        ("trees", {"root": [0]}, "must be complete"),
        ("centres", [[1.0, 2.0]], "model centres"),
        ("seeds", [[7, 3]], "model seeds"),
        ("inputs", {"prefix_tokens": -1, "session": False, "hour": False, "sampling": False}, "model inputs"),
        ("inputs", {"prefix_tokens": 0, "session": 1, "hour": False, "sampling": False}, "model inputs"),
        ("inputs", {"prompt": True}, "must be complete"),
        ("inputs", [1, 2], "must be complete"),
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
    with pytest.raises(InputError, match="must be a readable file"):
        load_model(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="must be a readable file"):
        load_model(tmp_path / "pipe.json")
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


def of_a_day(days: float) -> Recorded:
    """Structured answers take 30 tokens, others 300, thrice as many in the second half of the day."""
    rng = np.random.default_rng(0)
    size = 3000
    arrival_s = np.sort(rng.uniform(0, days * DAY_S, size))
    late = np.sin(2 * np.pi * arrival_s / DAY_S) < 0
    sampling = rng.integers(0, 2, size)
    middle = np.where(sampling == 1, 30, 300) * np.where(late, 3, 1)
    output = np.maximum(1, middle * np.exp(0.1 * rng.standard_normal(size))).astype(np.int64)
    prompt = rng.integers(100, 200, size)
    ends = finish_times(arrival_s, output)
    return Recorded(
        arrival_s, ends, prompt, output, np.zeros(size, np.int64), began_s=20_000 * DAY_S, sampling=sampling
    )


def test_training_finds_the_time_of_day_and_the_sampling() -> None:
    """On held-out time. Where the trees have not seen a whole day they are not told the hour."""
    pytest.importorskip("lightgbm")
    model = train(of_a_day(5.0))
    assert model.inputs == Inputs(hour=True, sampling=True)
    assert model.report["pinball_learned"] < 0.3 * model.report["pinball_history"]
    assert not train(of_a_day(1.5)).inputs.hour


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
