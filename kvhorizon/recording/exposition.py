"""Prometheus' text format as samples: what an engine's `/metrics` says, by name and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from kvhorizon.errors import InputError

MOST_CHARACTERS = 16 << 20


class Sample(NamedTuple):
    """One line."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(text: str) -> list[Sample]:
    """All samples. Raises InputError for text of another kind."""
    if len(text) > MOST_CHARACTERS:
        raise InputError("metrics", None, f"must be at most {MOST_CHARACTERS >> 20} MiB")
    try:
        return [
            Sample(one.name, one.labels, float(one.value))
            for family in text_string_to_metric_families(text)
            for one in family.samples
        ]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError("metrics", None, f"must be in Prometheus' text format ({str(error)[:80]})") from None


def total(samples: Iterable[Sample], name: str, **labels: str) -> float | None:
    """Sum of the samples of a name that have these labels; None where there is none."""
    found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
    return math.fsum(found) if found else None


def by_label(samples: Iterable[Sample], name: str, label: str) -> dict[str, float]:
    """Sums of the samples of a name for each value of a label."""
    found: dict[str, float] = {}
    for one in samples:
        if one.name == name:
            key = one.labels.get(label, "")
            found[key] = found.get(key, 0.0) + one.value
    return found


def buckets(samples: Iterable[Sample], name: str) -> list[tuple[float, float]]:
    """A histogram's upper bounds and how many are at most so large, over all labels; empty where there is none.

    Raises InputError where counts fall or a bound is no number.
    """
    try:
        counts: dict[float, float] = {}
        for one in samples:
            if one.name == f"{name}_bucket":
                bound = float(one.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + one.value
    except (KeyError, ValueError):
        raise InputError(f"metrics: {name}", None, "must have buckets with bounds") from None
    ordered = sorted(counts.items())
    values = [count for _, count in ordered]
    if any(not math.isfinite(v) or v < 0.0 for v in values) or any(math.isnan(bound) for bound, _ in ordered):
        raise InputError(f"metrics: {name}", None, "must count whole requests")
    if values != sorted(values):
        raise InputError(f"metrics: {name}", None, "must not fall from one bucket to the next")
    return ordered
