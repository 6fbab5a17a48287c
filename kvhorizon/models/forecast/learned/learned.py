"""A learned forecast: trees sort requests into groups; the length history learns each group's curve.

Boosted trees predict a few quantiles of log length; a request belongs to the group whose centre is nearest to its
predictions. Groups are keys of `models.forecast.history.history` (coarse, fine, fine with the tenant; in the plugin as
`adapter.forecasting.keys` has them), so what the trees get wrong is corrected online as for any other key: spread and
bias by the requests that end, a shift by drift detection, and a grouping that tells nothing is shrunk away. The file is
JSON: numbers only, checked when read, nothing is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.learned.features import FEATURES, NOTHING_MORE, Finished, Inputs
from kvhorizon.models.forecast.learned.trees import Trees, check, predict

FORMAT = "kvhorizon-learned"
VERSION = 2
MOST_BYTES = 64 << 20  # of a file
MOST_PREFIX_TOKENS = 1 << 20
FORMER_REQUESTS = 64  # that what is known of the recording is worth to the tenants' means
GROUP_KEYS = -(1 << 40)  # keys of groups lie below this, apart from those of tenants and prompt classes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LearnedModel:
    """Trees of Q quantiles, and G groups."""

    trees: Trees
    start: FloatArray  # (Q,) what the sums of the trees are added to [log tokens]
    centres: FloatArray  # (G, Q) of the groups [log tokens]
    coarse: IntArray  # (G,) the coarse group of each
    seeds: IntArray  # (s, 2) group, output tokens: unknown to the trees, for the first curves of the groups
    report: Mapping[str, Any]  # how it was validated
    inputs: Inputs = NOTHING_MORE  # that it was fitted with

    def groups(self, features: FloatArray) -> IntArray:
        """The group (n,) of requests with (n, F) features."""
        sums = np.tile(self.start, (len(features), 1))
        predict(self.trees, np.ascontiguousarray(features, dtype=np.float64), sums)
        return nearest(np.sort(sums, axis=1), self.centres)

    @property
    def known(self) -> Finished:
        """What the recording tells of requests in general, to begin with where none has ended yet."""
        if not len(self.seeds):
            return Finished()
        number = float(min(len(self.seeds), FORMER_REQUESTS))
        return Finished(number, number * float(np.log(self.seeds[:, 1]).mean()))

    def keys(self, features: FloatArray, tenant: IntArray) -> IntArray:
        """The history's chain of keys (n, 3) of requests with (n, F) features and (n,) tenants."""
        return self.keys_of(self.groups(features), tenant)

    def keys_of(self, group: IntArray, tenant: IntArray) -> IntArray:
        """The history's chain of keys (n, 3) of requests in (n,) groups with (n,) tenants."""
        coarse = GROUP_KEYS - 2 * self.coarse[group]
        fine = GROUP_KEYS - 2 * group - 1
        own = (GROUP_KEYS << 2) - tenant * len(self.centres) - group
        return np.stack([coarse, fine, own], axis=1).astype(np.int64)


def nearest(points: FloatArray, centres: FloatArray) -> IntArray:
    """The centre (n,) nearest to each of (n, Q) points."""
    squares = (centres**2).sum(axis=1) - 2.0 * points @ centres.T
    found: IntArray = np.argmin(squares, axis=1).astype(np.int64)
    return found


def save_model(model: LearnedModel, path: Path) -> None:
    """Write it as JSON."""
    parts = {
        "format": FORMAT,
        "version": VERSION,
        "features": list(FEATURES),
        "inputs": model.inputs._asdict(),
        "trees": {name: column.tolist() for name, column in model.trees._asdict().items()},
        "start": model.start.tolist(),
        "centres": model.centres.tolist(),
        "coarse": model.coarse.tolist(),
        "seeds": model.seeds.tolist(),
        "report": dict(model.report),
    }
    path.write_text(json.dumps(parts) + "\n", encoding="utf-8")


def load_model(path: Path) -> LearnedModel:
    """Read and check a model; raises InputError for anything that is not one of this version."""
    text = _text(path)
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("model", str(path), f"must be JSON ({error})") from None
    if not isinstance(parts, dict) or parts.get("format") != FORMAT or parts.get("version") != VERSION:
        raise InputError("model", str(path), f"must be of format {FORMAT}, version {VERSION}")
    if parts.get("features") != list(FEATURES):
        raise InputError("model features", parts.get("features"), f"must be {', '.join(FEATURES)}")
    try:
        return _checked(parts)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("model", str(path), f"must be complete and numeric ({error})") from None


def _text(path: Path) -> bytes:
    try:
        size = path.stat().st_size if path.is_file() else -1  # whatever else there is may never end
        if size > MOST_BYTES:
            raise InputError("model", str(path), f"must be at most {MOST_BYTES >> 20} MiB")
        if size < 0 and path.exists():
            raise InputError("model", str(path), "must be a readable file")
        return path.read_bytes()
    except OSError as error:
        raise InputError("model", str(path), f"must be a readable file ({error.strerror})") from None


def _checked(parts: Mapping[str, Any]) -> LearnedModel:
    columns = parts["trees"]
    root, model, feature, left, right = (
        np.array(columns[name], dtype=np.int64) for name in ("root", "model", "feature", "left", "right")
    )
    trees = Trees(root, model, feature, np.array(columns["threshold"], dtype=np.float64), left, right)
    start, centres = (np.array(parts[name], dtype=np.float64) for name in ("start", "centres"))
    coarse = np.array(parts["coarse"], dtype=np.int64)
    check(trees, len(FEATURES), len(start))
    shaped = centres.ndim == 2 and centres.shape[1] == len(start) and len(centres) == len(coarse) > 0
    if not shaped or not np.isfinite(centres).all() or not np.isfinite(start).all() or (coarse < 0).any():
        raise InputError("model centres", centres.shape, "must be finite, one row of quantiles per group")
    seeds = np.array(parts["seeds"], dtype=np.int64).reshape(-1, 2)
    if len(seeds) and not (seeds[:, 0].min() >= 0 and seeds[:, 0].max() < len(centres) and seeds[:, 1].min() >= 1):
        raise InputError("model seeds", len(seeds), "must be pairs of a group and output tokens >= 1")
    return LearnedModel(trees, start, centres, coarse, seeds, dict(parts["report"]), _inputs(parts["inputs"]))


def _inputs(said: Mapping[str, Any]) -> Inputs:
    inputs = Inputs(**said)
    kinds = [type(one) for one in inputs]
    if kinds != [int, bool, bool, bool] or not 0 <= inputs.prefix_tokens <= MOST_PREFIX_TOKENS:
        rule = f"must be prefix_tokens, 0..{MOST_PREFIX_TOKENS}, and session, hour and sampling, true or false"
        raise InputError("model inputs", dict(said), rule)
    return inputs
