"""Policies side by side on cells: one row of plain columns per replay, and ratios between policies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from experiments.common._cells import Cell, build, frozen_cells
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.registry import Policy, parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup

FLOOR = 0.01
Row = dict[str, Any]
Measure = Callable[[Setup, Policy], dict[str, float]]


def bound_cells() -> list[Cell]:
    """The frozen cells in which memory is what limits the engine."""
    return [cell for cell in frozen_cells() if cell.kind == "bound"]


def columns(setup: Setup, outcome: Outcome) -> dict[str, float]:
    """What one replay came to: evictions, what was computed again, and what users saw [s, tok/s]."""
    trace = setup.trace
    e2e_s = outcome.finish_s - trace.arrival_s
    wasted = float(outcome.wasted_flops.sum())
    return {
        "requests": len(trace),
        "preemptions": float(outcome.preemptions.sum()),
        "preemption_frequency": float(outcome.preemptions.mean()),
        "near_finished_evictions": float(outcome.near_end_preemptions),
        "recompute_tokens": float(outcome.recompute_tokens.sum()),
        "recompute_gpu_s": outcome.recompute_s,
        "wasted_flops": wasted,
        "recompute_fraction": wasted / outcome.flops,
        "gpu_share": outcome.recompute_s / outcome.busy_s,
        "token_share": float(outcome.recompute_tokens.sum() / (trace.prompt_tokens + trace.output_tokens).sum()),
        "throughput": float((trace.prompt_tokens + trace.output_tokens).sum()) / outcome.makespan_s,
        "ttft_mean": float((outcome.first_token_s - trace.arrival_s).mean()),
        "e2e_mean": float(e2e_s.mean()),
        "e2e_p99": float(np.percentile(e2e_s, 99)),
    }


def plain(setup: Setup, policy: Policy) -> dict[str, float]:
    """The columns of one replay."""
    return columns(setup, replay(setup, policy))


def run(cells: Iterable[Cell], seeds: Sequence[int], policies: Sequence[str], measure: Measure = plain) -> list[Row]:
    """Every policy on every cell and seed, forecasts with log-noise 0.6."""
    rows = []
    for cell in cells:
        for seed in seeds:
            setup = build(cell, seed)
            for policy in policies:
                row = {"cell": cell.name, "seed": seed, "policy": policy, **measure(setup, parse_policy(policy))}
                rows.append(row)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def of(rows: list[Row], policy: str, column: str) -> np.ndarray:
    """One column of one policy, in the order of cells and seeds."""
    return np.array([row[column] for row in rows if row["policy"] == policy], float)


def ratios(rows: list[Row], policy: str, reference: str, column: str) -> np.ndarray:
    """Per cell and seed; 0 to 0 counts as 1, anything else to 0 as nan."""
    mine, theirs = of(rows, policy, column), of(rows, reference, column)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(theirs > 0.0, mine / theirs, np.where(mine == theirs, 1.0, np.nan))


def pooled_ratio(rows: list[Row], policy: str, reference: str, column: str) -> float:
    """Geometric mean of the finite ratios, each floored at 0.01; nan of none."""
    found = ratios(rows, policy, reference, column)
    finite = found[np.isfinite(found)]
    return float(np.exp(np.log(np.maximum(finite, FLOOR)).mean())) if len(finite) else float("nan")


def total_ratio(rows: list[Row], policy: str, reference: str, column: str) -> float:
    """Sum over cells and seeds to sum, for counts too small to divide cell by cell; nan if the reference has none."""
    total = of(rows, reference, column).sum()
    return float(of(rows, policy, column).sum() / total) if total else float("nan")


def comparison(rows: list[Row], policy: str, reference: str, names: Iterable[str]) -> dict[str, float]:
    """Pooled ratios of several columns, and the worst cell's throughput."""
    found = {name: pooled_ratio(rows, policy, reference, name) for name in names}
    return {**found, "throughput_worst": float(np.nanmin(ratios(rows, policy, reference, "throughput")))}
