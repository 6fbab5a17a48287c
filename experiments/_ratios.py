"""Ratios of one policy's columns to a reference's, pooled over cells and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FLOOR = 0.01
RESAMPLES = 1000
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
    "time_to_90pct": _path("time_to_90pct_s"),
    "time_to_99pct": _path("time_to_99pct_s"),
    "preemption_frequency": _path("preemption_frequency"),
    "recompute_gpu_s": _path("recompute_gpu_s"),
    "recompute_fraction": _path("recompute_fraction"),
    "wasted_flops": _path("wasted_flops"),
    "ttft_mean": _path("ttft_s", "mean"),
    "ttft_p50": _path("ttft_s", "p50"),
    "ttft_p99": _path("ttft_s", "p99"),
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


def geometric_mean(ratios: np.ndarray) -> float:
    """Of the finite ones, each floored at 0.01; nan of none."""
    finite = ratios[np.isfinite(ratios)]
    return float(np.exp(np.log(np.maximum(finite, FLOOR)).mean())) if len(finite) else float("nan")


def _ratio(value: float, reference: float) -> float:
    """Where the reference is 0, equal counts as 1 and anything else is left out."""
    if reference > 0.0:
        return value / reference
    return 1.0 if value == reference else float("nan")


def ratios(rows: list[Row], policy: str, forecast: str, reference: str) -> dict[str, dict[str, list[float]]]:
    """Per column, per cell: the ratios (or differences) over seeds."""
    base = {(row["cell"], row["seed"]): row["columns"] for row in rows if row["policy"] == reference}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        other = base.get((row["cell"], row["seed"]))
        if row["policy"] != policy or row["forecast"] != forecast or other is None:
            continue
        for name, read in COLUMNS.items():
            found[name][row["cell"]].append(_ratio(read(row["columns"]), read(other)))
        for name, read in DIFFERENCES.items():
            found[name][row["cell"]].append(read(row["columns"]) - read(other))
    return found


def _interval(per_cell: list[np.ndarray], pool: Callable[[np.ndarray], float]) -> list[float]:
    """95 % bootstrap interval over cells."""
    rng = np.random.default_rng(0)
    draws = [
        pool(np.concatenate([per_cell[i] for i in rng.integers(0, len(per_cell), len(per_cell))]))
        for _ in range(RESAMPLES)
    ]
    return [float(np.nanpercentile(draws, 2.5)), float(np.nanpercentile(draws, 97.5))]


def summary(name: str, cells: Mapping[str, list[float]]) -> dict[str, Any]:
    """Pooled value, its interval, and the worst cell's mean."""
    pool = np.nanmean if name in DIFFERENCES else geometric_mean
    per_cell = [np.array(values) for values in cells.values()]
    means = np.array([np.nanmean(values) if np.isfinite(values).any() else np.nan for values in per_cell])
    worst = np.nanmin(means) if name in HIGHER_IS_BETTER else np.nanmax(means)
    return {
        "value": float(pool(np.concatenate(per_cell))),
        "interval": _interval(per_cell, pool),
        "worst": float(worst),
    }


def aggregate(rows: list[Row]) -> dict[str, Any]:
    """{kind of cell: {policy|forecast: {reference: {column: summary}}}}."""
    result: dict[str, Any] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        chosen = [row for row in rows if row["kind"] == kind]
        contenders = dict.fromkeys((row["policy"], row["forecast"]) for row in chosen)
        result[kind] = {
            f"{policy}|{forecast}": {
                reference: {
                    column: summary(column, cells)
                    for column, cells in ratios(chosen, policy, forecast, reference).items()
                }
                for reference in ("fcfs", "watermark:0.02")
                if reference != policy
            }
            for policy, forecast in contenders
        }
    return result
