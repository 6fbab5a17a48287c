"""Fitting a learned forecast, validated in time order against the history it would replace.

The first `TRAIN_SHARE` of the recorded time is for fitting: requests that had finished by its end. Then both forecasts
run over the whole recording online, and their pinball losses on the rest of it are compared. A model that does not
beat the history by `MUST_GAIN` is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.extras import require
from kvhorizon.models.forecast.history.chains import length_chain
from kvhorizon.models.forecast.learned.features import DAY_S, FEATURES, Inputs, Recorded, features_of
from kvhorizon.models.forecast.learned.learned import LearnedModel, nearest
from kvhorizon.models.forecast.learned.trees import Trees, from_lightgbm
from kvhorizon.models.forecast.prequential import OnlineHistory, Scores, score

QUANTILES = (0.2, 0.5, 0.8)
GROUPS, COARSE_GROUPS = 32, 8
ROUNDS = 80
TRAIN_SHARE = 0.6
MUST_GAIN = 0.02
FOLDS = 6
RESTARTS = 6  # of the search for centres
UNSORTED = -1 << 62  # key of requests that belong to no group
LEAST_REQUESTS = 500  # to fit on, and to compare on
PARAMETERS = {"num_leaves": 8, "learning_rate": 0.1, "min_data_in_leaf": 30, "verbose": -1, "num_threads": 1}

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def train(recorded: Recorded, seed: int = 0) -> LearnedModel:
    """A model fitted to a recording. Raises InputError where it is too short, or no better than the history."""
    first = int(TRAIN_SHARE * len(recorded.arrival_s))
    known = recorded.finish_s[:first] <= recorded.arrival_s[first] if first else np.zeros(0, np.bool_)
    if min(known.sum(), len(recorded.arrival_s) - first) < LEAST_REQUESTS:
        rule = f"must hold {LEAST_REQUESTS} requests finished in its first part and as many in the rest"
        raise InputError("recording", len(recorded.arrival_s), rule)
    if recorded.arrival_s[first] - recorded.arrival_s[0] < DAY_S:  # trees cannot go beyond the hours that they saw
        recorded = recorded._replace(began_s=None)
    features = features_of(recorded)
    model = _fit(features, recorded.output_tokens, np.flatnonzero(known), seed)
    report = compare(model, recorded, features, np.flatnonzero(known), first)
    if report["pinball_learned"] > (1.0 - MUST_GAIN) * report["pinball_history"]:
        shown = f"{report['pinball_learned']:.4g} tokens of pinball loss on held-out time"
        rule = f"must be {MUST_GAIN:.0%} better than the history's {report['pinball_history']:.4g} to replace it"
        raise InputError("learned forecast", shown, rule)
    return dataclasses.replace(model, report=report, inputs=Inputs.of(recorded))


def compare(
    model: LearnedModel, recorded: Recorded, features: FloatArray, fitted: IntArray, first: int
) -> dict[str, Any]:
    """Figures of the learned forecast and the history on requests `first` …, both learning online all along.

    Requests that the model was `fitted` to stand in the groups that trees fitted to others gave them.
    """
    arrival_s, output = recorded.arrival_s, recorded.output_tokens
    keys = model.keys(features, recorded.tenant)
    keys[:first] = UNSORTED
    keys[fitted] = model.keys_of(model.seeds[:, 0], recorded.tenant[fitted])
    plain = OnlineHistory(output, length_chain(recorded.tenant, recorded.prompt_tokens))
    history, learned = (score(arrival_s, output, one, first) for one in (plain, OnlineHistory(output, keys)))
    return {
        "train_requests": len(fitted),
        "held_out_requests": len(output) - first,
        **_figures("history", history),
        **_figures("learned", learned),
    }


def _figures(name: str, scores: Scores) -> dict[str, float]:
    return {
        f"pinball_{name}": float(scores.pinball.mean()),
        f"coverage80_{name}": scores.coverage(0.8),
        f"log_score_{name}": float(scores.log_score.mean()),
        f"median_mae_{name}": float(np.abs(scores.error).mean()),
        f"median_within_100_{name}": float((np.abs(scores.error) <= 100.0).mean()),
    }


def _fit(features: FloatArray, output_tokens: IntArray, rows: IntArray, seed: int) -> LearnedModel:
    """Trees and groups from `rows` of (N, F) features and (N,) lengths.

    The groups' first lengths come from trees that did not see them, one fold of the time at a time: trees know their
    own requests too well, and curves of groups that they chose would be too sure.
    """
    trees, predicted = _quantile_trees(features[rows], np.log(output_tokens[rows]), seed)
    rng = np.random.default_rng(seed)
    centres = _centres(predicted, GROUPS, rng)
    coarse = nearest(centres, _centres(centres, COARSE_GROUPS, rng))
    groups = np.zeros(len(rows), np.int64)
    model = LearnedModel(trees, np.zeros(len(QUANTILES)), centres, coarse, np.zeros((0, 2), np.int64), {})
    for fold in np.array_split(np.arange(len(rows)), FOLDS):
        others = np.delete(rows, fold)
        trees, _ = _quantile_trees(features[others], np.log(output_tokens[others]), seed)
        groups[fold] = dataclasses.replace(model, trees=trees).groups(features[rows[fold]])
    return dataclasses.replace(model, seeds=np.stack([groups, output_tokens[rows]], axis=1))


def _quantile_trees(features: FloatArray, logs: FloatArray, seed: int) -> tuple[Trees, FloatArray]:
    """Trees of all QUANTILES, and what they predict (n, Q) of the requests they were fitted to, ascending."""
    require("lightgbm", "train", "training")
    import lightgbm

    fits = []
    for share in QUANTILES:
        data = lightgbm.Dataset(features, logs, feature_name=list(FEATURES))
        fits.append(lightgbm.train({**PARAMETERS, "objective": "quantile", "alpha": share, "seed": seed}, data, ROUNDS))
    predicted = np.stack([fit.predict(features, num_threads=1) for fit in fits], axis=1)
    return from_lightgbm([fit.dump_model() for fit in fits]), np.sort(predicted, axis=1)


def _centres(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """At most `count` centres of (n, Q) points: the best of several searches."""
    found = [_search(points, count, rng) for _ in range(RESTARTS)]
    return min(found, key=lambda centres: float(_squares(points, centres).min(axis=1).sum()))


def _squares(points: FloatArray, centres: FloatArray) -> FloatArray:
    """(n, G) squared distances."""
    squares: FloatArray = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
    return squares


def _search(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """k-means from seeds drawn by their distance to the others (Arthur & Vassilvitskii, "k-means++", SODA 2007)."""
    centres = points[rng.integers(len(points), size=1)]
    while len(centres) < count:
        far = _squares(points, centres).min(axis=1)
        if far.sum() <= 1e-12:
            break
        centres = np.concatenate([centres, points[rng.choice(len(points), 1, p=far / far.sum())]])
    for _ in range(15):
        own = nearest(points, centres)
        centres = np.stack([points[own == g].mean(axis=0) if (own == g).any() else c for g, c in enumerate(centres)])
    return centres
