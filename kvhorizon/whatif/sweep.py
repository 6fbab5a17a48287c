"""Sweeps: `NAME=VALUES` arguments that turn one question into many."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kvhorizon.errors import InputError
from kvhorizon.whatif.question import Question

MOST_POINTS = 10_000
AXES: dict[str, Callable[[str], Any]] = {
    "load": float,
    "gpu": str,
    "model": str,
    "tp": int,
    "kv_blocks": int,
    "limit": int,
    "max_output_tokens": int,
    "seed": int,
    "forecast": str,
    "delay_s": float,
    "replicas": int,
    "router": str,
    "patience_s": float,
    "retries": int,
    "fail_at_s": float,
    "down_for_s": float,
    "offload_gb_s": float,
    "mix_share": float,
}


class Axis(NamedTuple):
    """One argument of the question and the values it takes."""

    name: str
    values: tuple[Any, ...]


class Point(NamedTuple):
    """One point of the sweep: the arguments' values, and `results.json` there."""

    at: dict[str, Any]
    results: dict[str, Any]


def parse_axis(text: str) -> Axis:
    """`load=0.6:1.5:0.1` (first, last, step; the last counts) or `gpu=a100-40gb,l4-24gb`. Raises InputError."""
    name, equals, spec = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or name not in AXES:
        raise InputError("sweep", text, f"must be NAME=VALUES with NAME one of {', '.join(AXES)}")
    kind = AXES[name]
    try:
        values = _span(spec, kind) if ":" in spec and kind is not str else [kind(v) for v in spec.split(",")]
    except ValueError:
        raise InputError("sweep", text, "values must be FIRST:LAST:STEP or a list with commas") from None
    values = [value for value in values if value != ""]
    if not values or len(set(values)) < len(values):
        raise InputError("sweep", text, "must name at least one value, and each once")
    return Axis(name, tuple(values))


def _span(spec: str, kind: Callable[[Any], Any]) -> list[Any]:
    first, last, step = (float(part) for part in spec.split(":"))
    steps = (last - first) / step if step > 0.0 else -1.0
    if not 0.0 <= steps < MOST_POINTS:
        raise ValueError(spec)
    return [kind(round(first + i * step, 9)) for i in range(int(steps + 1e-9) + 1)]


def points(question: Question, axes: Sequence[Axis]) -> list[Question]:
    """The question at each combination of the axes' values, the last axis fastest. Raises InputError."""
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise InputError("sweep", ", ".join(names), "must name each argument once")
    combinations = list(itertools.islice(itertools.product(*(axis.values for axis in axes)), MOST_POINTS + 1))
    if len(combinations) > MOST_POINTS:
        raise InputError("sweep", f"more than {MOST_POINTS} points", f"must have at most {MOST_POINTS}")
    return [dataclasses.replace(question, **dict(zip(names, values, strict=True))) for values in combinations]
