"""Ratios of one policy's columns to a reference's, pooled over cells and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FLOOR = 0.01
RESAMPLES = 1000
REFERENCES = ("fcfs", "watermark:0.02")
Row = Mapping[str, Any]


def _path(*keys: str) -> Callable[[Row], float]:
    def read(columns: Row) -> float:
        value: Any = columns
        for key in keys:
            value = None if value is None else value[key]
        return float("nan") if value is None else float(value)

    return read


COLUMNS: dict[str, Callable[[Row], float]] = {
    "throughput": _path("throughput_tok_s"),
    "throughput_in_window": _path("throughput_in_window_tok_s"),
    "makespan": _path("makespan_s"),
    "time_to_90pct": _path("time_to_90pct_s"),
    "time_to_99pct": _path("time_to_99pct_s"),
    "preemption_frequency": _path("preemption_frequency"),
    "recompute_gpu_s": _path("recompute_gpu_s"),
    "recompute_fraction": _path("recompute_fraction"),
    "wasted_flops": _path("wasted_flops"),
    "ttft_mean": _path("ttft_s", "mean"),
    "ttft_p50": _path("ttft_s", "p50"),
    "ttft_p99": _path("ttft_s", "p99"),
    "tpot_mean": _path("tpot_s", "mean"),
    "tpot_p50": _path("tpot_s", "p50"),
    "tpot_p99": _path("tpot_s", "p99"),
    "e2e_mean": _path("e2e_s", "mean"),
    "e2e_p99": _path("e2e_s", "p99"),
    "slowdown_mean": _path("slowdown", "mean"),
    "slowdown_p99": _path("slowdown", "p99"),
    "slowdown_max": _path("slowdown", "max"),
    "long_ttft_p99": _path("long_ttft_s", "p99"),
    "long_e2e_p99": _path("long_e2e_s", "p99"),
    "gpu_utilization": _path("gpu_utilization"),
    "max_wait": _path("max_wait_s"),
}
DIFFERENCES: dict[str, Callable[[Row], float]] = {"goodput": _path("goodput")}
HIGHER_IS_BETTER = {"throughput", "throughput_in_window", "gpu_utilization", "goodput"}


def _ratio(value: float, reference: float) -> float:
    """Where the reference is 0, equal counts as 1 and anything else is left out."""
    if reference > 0.0:
        return value / reference
    return 1.0 if value == reference else float("nan")


def label_of(row: Row) -> str:
    """How a policy is called in tables: with the forecast it used, and whether KV was reloaded."""
    forecast = "" if row["forecast"] == "none" else f"@{row['forecast']}"
    return row["policy"] + forecast + ("+reload" if row["reload_s"] else "")


def ratios(rows: list[Row], label: str, reference: str) -> dict[str, dict[str, list[float]]]:
    """Per column, per cell: the ratios (or differences) over seeds."""
    base = {(row["cell"], row["seed"]): row["columns"] for row in rows if label_of(row) == reference}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        other = base.get((row["cell"], row["seed"]))
        if label_of(row) != label or other is None:
            continue
        for name, read in COLUMNS.items():
            found[name][row["cell"]].append(_ratio(read(row["columns"]), read(other)))
        for name, read in DIFFERENCES.items():
            found[name][row["cell"]].append(read(row["columns"]) - read(other))
    return found


def _interval(sums: np.ndarray, counts: np.ndarray, logarithmic: bool) -> list[float]:
    """95 % bootstrap interval over cells, each given by its sum and count (cells,)."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    with np.errstate(invalid="ignore"):
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.nanpercentile(np.exp(means) if logarithmic else means, [2.5, 97.5])
    return [float(low), float(high)]


def summary(name: str, cells: Mapping[str, list[float]]) -> list[float | None]:
    """[pooled value, low and high end of its interval, the worst cell's mean]."""
    pooled_as_logs = name not in DIFFERENCES
    finite = [np.array(values)[np.isfinite(values)] for values in cells.values()]
    finite = [values for values in finite if len(values)]
    if not finite:
        return [None] * 4
    means = [float(values.mean()) for values in finite]
    terms = [np.log(np.maximum(values, FLOOR)) if pooled_as_logs else values for values in finite]
    sums, counts = np.array([t.sum() for t in terms]), np.array([len(t) for t in terms])
    value = float(sums.sum() / counts.sum())
    ends = _interval(sums, counts, pooled_as_logs)
    worst = min(means) if name in HIGHER_IS_BETTER else max(means)
    return [round(x, 4) for x in (float(np.exp(value)) if pooled_as_logs else value, *ends, worst)]


def aggregate(rows: list[Row]) -> dict[str, Any]:
    """{"cells": {kind: how many}, "seeds": …, "to": {reference: {kind: {policy: {column: `summary`}}}}}."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    labels = list(dict.fromkeys(map(label_of, rows)))
    to: dict[str, Any] = {}
    for reference in REFERENCES:
        to[reference] = {}
        for kind in kinds:
            chosen = [row for row in rows if row["kind"] == kind]
            to[reference][kind] = {
                label: {column: summary(column, cells) for column, cells in ratios(chosen, label, reference).items()}
                for label in labels
                if label != reference
            }
    return {
        "columns": "value, 95 % interval low, high, worst cell",
        "cells": {kind: len({row["cell"] for row in rows if row["kind"] == kind}) for kind in kinds},
        "seeds": sorted({row["seed"] for row in rows}),
        "to": to,
    }


SHOWN = (
    *("throughput", "time_to_99pct", "preemption_frequency", "recompute_gpu_s", "ttft_mean", "ttft_p99", "tpot_p99"),
    *("e2e_mean", "e2e_p99", "slowdown_p99", "long_ttft_p99", "long_e2e_p99", "goodput", "max_wait"),
)


def table(policies: Mapping[str, Any], shown: tuple[str, ...] = SHOWN) -> str:
    """A Markdown table of pooled values, with the worst cell's throughput and e2e p99."""
    head = ["policy", *shown, "worst throughput", "worst e2e_p99"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, columns in policies.items():
        if not columns:
            continue
        cells = [columns[name][0] for name in shown] + [columns["throughput"][3], columns["e2e_p99"][3]]
        lines.append("| " + " | ".join([label, *("–" if v is None else f"{v:.3g}" for v in cells)]) + " |")
    return "\n".join(lines)


def print_tables(result: Mapping[str, Any]) -> None:
    """Every kind of cell, to each reference."""
    for reference, kinds in result["to"].items():
        for kind, policies in kinds.items():
            print(f"\n{kind}, {result['cells'][kind]} cells, ratios to {reference} (goodput: difference)\n")
            print(table(policies))
