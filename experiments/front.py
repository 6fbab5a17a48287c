"""The tuned front of the greedy: the bar for the program.

Every setting is tuned on seed 100 over a few KV-bound cells, one of each workload; those that no other setting beats in
mean *and* p99 end-to-end latency, or in mean TTFT and p99, go on, with the shipped ones, to be judged on seeds 0 and 1.
Runs are kept in `out/front.jsonl`, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments._cells import Cell, frozen_cells
from experiments._front import Setting, not_dominated, settings
from experiments._harness import Figures, Options, Targets, main
from experiments._ratios import ratios, summary
from experiments._runs import ANY_FORECAST, Job, Row, gather, run_one
from experiments.scoreboard import RELOAD_S
from kvhorizon.sim.policies import parse_policy

SEED = 100
KEPT = Path("out") / "front.jsonl"
WORKERS = 2
FORECAST = "noisy:0.6"
TUNED_ON, JUDGED_ON = (100,), (0, 1)
TUNING_CELLS, QUICK_CELLS, QUICK_SETTINGS = 8, 1, 8
MEANS_AND_TAILS = (("e2e_mean", "e2e_p99"), ("ttft_mean", "e2e_p99"), ("ttft_mean", "long_ttft_p99"))
KEPT_COLUMNS = (
    *("throughput", "preemption_frequency", "recompute_gpu_s", "ttft_mean", "ttft_p99", "tpot_mean", "tpot_p99"),
    *("e2e_mean", "e2e_p99", "slowdown_mean", "slowdown_p99", "long_ttft_p99", "long_e2e_p99", "goodput"),
)


def bound_cells() -> list[Cell]:
    return [cell for cell in frozen_cells() if cell.kind == "bound"]


def tuning_cells(most: int) -> list[Cell]:
    """The KV-bound cell of each workload with the fewest requests, since every setting is tried on each."""
    found: dict[str, Cell] = {}
    for cell in sorted(bound_cells(), key=lambda cell: cell.requests):
        found.setdefault(cell.workload, cell)
    return list(found.values())[:most]


def jobs_for(chosen: Sequence[Setting], cells: Sequence[Cell], seeds: Sequence[int]) -> list[Job]:
    """The settings and the reference, on each cell and seed."""
    return [
        job
        for cell in cells
        for seed in seeds
        for job in (
            Job(cell, seed, "fcfs", ANY_FORECAST),
            *(Job(cell, seed, s.name, FORECAST, RELOAD_S if s.reload else 0.0) for s in chosen),
        )
    ]


def run_settings(jobs: Sequence[Job]) -> list[Row]:
    """As `run_jobs`, for policies that are settings of the front."""
    known = {setting.name: setting.policy for setting in settings()}
    return [run_one(job, known.get(job.policy) or parse_policy(job.policy)) for job in jobs]


def scores(chosen: Sequence[Setting], rows: list[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Per setting: its columns as ratios to first-come-first-served."""
    reference = [row for row in rows if row["policy"] == "fcfs"]
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["policy"], []).append(row)
    found = []
    for setting in chosen:
        own = by_name[setting.name]
        label = f"{setting.name}@{FORECAST}" + ("+reload" if setting.reload else "")
        per_cell = ratios([*reference, *own], label, "fcfs")
        found.append({name: summary(name, per_cell[name]) for name in columns})
    return found


def best_of(chosen: Sequence[Setting], columns: Sequence[dict[str, Any]]) -> list[Setting]:
    """Settings on one of the fronts, with and without reload apart, and the shipped ones."""
    kept = [s for s in chosen if not s.parameters or s.rule in {q.rule for q in settings()[:8]}]
    for reload in (False, True):
        places = [i for i, setting in enumerate(chosen) if setting.reload is reload]
        for pair in MEANS_AND_TAILS:
            points = [tuple(columns[i][name][0] for name in pair) for i in places]
            kept += [chosen[places[i]] for i in not_dominated(points)]
    return list(dict.fromkeys(kept))


def measure(options: Options) -> tuple[Figures, Targets]:
    """Tune, pick, judge."""
    every = settings()[:QUICK_SETTINGS] if options.quick else settings()
    cells = tuning_cells(QUICK_CELLS if options.quick else TUNING_CELLS)
    run = functools.partial(gather, path=None if options.quick else KEPT, workers=WORKERS, work=run_settings)
    began_s = time.perf_counter()
    tuned = scores(every, run(jobs_for(every, cells, TUNED_ON)), ("ttft_mean", "e2e_mean", "e2e_p99", "long_ttft_p99"))
    picked = best_of(every, tuned)
    judges = cells if options.quick else bound_cells()
    judged = scores(picked, run(jobs_for(picked, judges, JUDGED_ON)), KEPT_COLUMNS)
    figures = {
        "settings": len(every),
        "tuning_cells": [cell.name for cell in cells],
        "picked": len(picked),
        "wall_s": time.perf_counter() - began_s,
        "tuned": [[s.name, *(c[name][0] for name in c)] for s, c in zip(every, tuned, strict=True)],
        "judged": [{"setting": s.name, "reload": s.reload, "columns": c} for s, c in zip(picked, judged, strict=True)],
    }
    return figures, {}


if __name__ == "__main__":
    main("front", SEED, measure)
