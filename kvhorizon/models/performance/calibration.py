"""The calibrated coefficients of step time, shipped as a table: one row per model, GPU family and TP.

`data/step_time.csv` is written by `python -m experiments.step_time_fit`; the measured kernel times behind it are
aiconfigurator's for vLLM (github.com/ai-dynamo/aiconfigurator). A model that was not measured takes the median of the
nearest group that was, in this order: the same model (by its dimensions) at any TP; the same family and kind (dense or
mixture of experts); the same kind on any GPU. Kind goes before GPU, since experts have kernels of their own
(`transfer_moe_mape` in `experiments.step_time`). TP adds no communication term of its own: the factors of the TP that
was measured hold it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from statistics import median

from kvhorizon.models.performance.gpu import Gpu
from kvhorizon.models.performance.shape import ModelShape, builtin


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Against measured kernels; measured / ideal time where no unit is given."""

    fixed_s_per_layer: float
    weights: float  # reading weights at full memory bandwidth = 1
    linear: float  # linear layers at peak FLOP/s = 1
    attention: float  # prefill attention at peak FLOP/s = 1
    kv: float  # reading KV at full memory bandwidth = 1
    sequence_s: float  # kernel seconds per running sequence
    smooth: float  # p of the smooth maximum, >= 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """One row of the table."""

    model: str
    family: str
    tp: int
    moe: bool
    coefficients: Coefficients


@lru_cache(maxsize=1)
def table() -> tuple[Calibration, ...]:
    """All calibrated rows."""
    with (files("kvhorizon.models.performance") / "data" / "step_time.csv").open(encoding="utf-8") as lines:
        return tuple(_row(row) for row in csv.DictReader(lines))


def calibrated(shape: ModelShape, gpu: Gpu, tp: int) -> Coefficients:
    """The coefficients of a model on a GPU, or the median of the nearest group that was measured."""
    return _median(next(group for group in _groups(shape, gpu, tp) if group))


def _row(row: dict[str, str]) -> Calibration:
    coefficients = Coefficients(**{f.name: float(row[f.name]) for f in fields(Coefficients)})
    return Calibration(row["model"], row["family"], int(row["tp"]), row["moe"] == "1", coefficients)


def _groups(shape: ModelShape, gpu: Gpu, tp: int) -> Iterator[list[Coefficients]]:
    """Candidates, the nearest group first."""
    family = [row for row in table() if row.family == gpu.family]
    model = [row for row in family if _like(builtin(row.model)) == _like(shape)]
    yield [row.coefficients for row in model if row.tp == tp]
    yield [row.coefficients for row in model]
    yield [row.coefficients for row in family if row.moe == bool(shape.experts)]
    yield [row.coefficients for row in table() if row.moe == bool(shape.experts)]


def _like(shape: ModelShape) -> tuple[int, ...]:
    """What fine-tuned models share with their base, whatever their name."""
    return shape.layers, shape.hidden, shape.heads, shape.intermediate, shape.experts


def _median(group: list[Coefficients]) -> Coefficients:
    return Coefficients(**{f.name: median(getattr(c, f.name) for c in group) for f in fields(Coefficients)})
