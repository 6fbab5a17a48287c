"""Gradient-boosted regression trees as plain arrays: ours to read, check and evaluate, without the library that fits.

A model's prediction is the sum of one leaf per tree; an inner node sends x to its left child if x[feature] <= threshold
(Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 2001).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Trees(NamedTuple):
    """T trees of Q models over V nodes; compiled code takes it as one argument."""

    root: IntArray  # (T,) node
    model: IntArray  # (T,) which sum the tree adds to
    feature: IntArray  # (V,) −1 of a leaf
    threshold: FloatArray  # (V,) of a leaf: its value
    left: IntArray  # (V,) child, beyond its parent
    right: IntArray  # (V,)


@counting
def predict(trees, features, out):  # type: ignore[no-untyped-def]
    """Add to `out` (n, Q) the sums of the trees at `features` (n, F)."""
    for t in range(len(trees.root)):  # outside, so that a tree stays in the processor's cache
        for i in range(features.shape[0]):
            node = trees.root[t]
            while trees.feature[node] >= 0:
                below = features[i, trees.feature[node]] <= trees.threshold[node]
                node = trees.left[node] if below else trees.right[node]
            out[i, trees.model[t]] += trees.threshold[node]


def from_lightgbm(dumps: list[dict[str, Any]]) -> Trees:
    """The trees of Q models as LightGBM's `Booster.dump_model()` gives them."""
    columns: tuple[list[int], list[float], list[int], list[int]] = ([], [], [], [])
    roots, models = [], []
    for model, dump in enumerate(dumps):
        for tree in dump["tree_info"]:
            roots.append(_add(tree["tree_structure"], columns))
            models.append(model)
    feature, threshold, left, right = columns
    root, model_of, split = _whole(roots), _whole(models), _whole(feature)
    return Trees(root, model_of, split, np.array(threshold), _whole(left), _whole(right))


def check(trees: Trees, features: int, models: int) -> None:
    """Raises InputError unless evaluating the trees ends, inside their arrays."""
    nodes = len(trees.feature)
    inner = trees.feature >= 0
    at = np.arange(nodes)
    sizes = {len(column) for column in (trees.threshold, trees.left, trees.right)} == {nodes}
    if not sizes or len(trees.root) != len(trees.model):
        raise InputError("trees", nodes, "must have columns of one length")
    for name, fine in (
        ("root", ((trees.root >= 0) & (trees.root < nodes)).all()),
        ("model", ((trees.model >= 0) & (trees.model < models)).all()),
        ("feature", (trees.feature < features).all()),
        ("threshold", np.isfinite(trees.threshold).all()),
        ("left", ((trees.left > at) & (trees.left < nodes))[inner].all()),
        ("right", ((trees.right > at) & (trees.right < nodes))[inner].all()),
    ):
        if not fine:
            raise InputError(f"trees.{name}", None, "must point inside the model, children beyond their parents")


def _add(node: dict[str, Any], columns: tuple[list[int], list[float], list[int], list[int]]) -> int:
    feature, threshold, left, right = columns
    place = len(feature)
    leaf = "leaf_value" in node
    feature.append(-1 if leaf else int(node["split_feature"]))
    threshold.append(float(node["leaf_value" if leaf else "threshold"]))
    left.append(-1)
    right.append(-1)
    if not leaf:
        left[place] = _add(node["left_child"], columns)
        right[place] = _add(node["right_child"], columns)
    return place


def _whole(values: list[int]) -> IntArray:
    return np.array(values, dtype=np.int64)
