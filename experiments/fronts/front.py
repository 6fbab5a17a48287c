"""The tuned front of the greedy: the bar for the program (`program_front`).

Every setting is tuned on seed 100 over a few KV-bound cells, one of each workload; those that no other setting beats in
mean *and* p99 end-to-end latency, or in mean TTFT and p99, go on, with the shipped ones, to be judged on seeds 0 and 1.
Runs are kept in `out/front.jsonl`, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from experiments.common._cells import Cell, frozen_cells
from experiments.common._harness import Figures, Options, Targets, main
from experiments.common._ratios import ratios, summary
from experiments.common._runs import ANY_FORECAST, Job, Row, gather, run_one
from experiments.fronts._front import Setting, not_dominated, settings
from experiments.simulated.scoreboard import RELOAD_S
from kvhorizon.sim.policies.registry import Policy, parse_policy

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


class Tuned(Protocol):
    """A setting of a front: of the greedy, or of the program."""

    @property
    def name(self) -> str:
        """Unique, with its parameters."""
        ...

    @property
    def reload(self) -> bool:
        """Whether evicted KV comes back from host memory."""
        ...

    @property
    def policy(self) -> Policy:
        """What is replayed."""
        ...


def bound_cells() -> list[Cell]:
    return [cell for cell in frozen_cells() if cell.kind == "bound"]


def tuning_cells(most: int) -> list[Cell]:
    """The KV-bound cell of each workload with the fewest requests, since every setting is tried on each."""
    found: dict[str, Cell] = {}
    for cell in sorted(bound_cells(), key=lambda cell: cell.requests):
        found.setdefault(cell.workload, cell)
    return list(found.values())[:most]


def run_named(policies: Mapping[str, Policy], jobs: Sequence[Job]) -> list[Row]:
    """As `run_jobs`, for policies that have no name elsewhere."""
    return [run_one(job, policies.get(job.policy) or parse_policy(job.policy)) for job in jobs]


def replayed(
    chosen: Sequence[Tuned], cells: Sequence[Cell], seeds: Sequence[int], kept: Path | None
) -> dict[str, list[Row]]:
    """The settings and the reference on each cell and seed, by policy."""
    jobs = [
        job
        for cell in cells
        for seed in seeds
        for job in (
            Job(cell, seed, "fcfs", ANY_FORECAST),
            *(Job(cell, seed, s.name, FORECAST, RELOAD_S if s.reload else 0.0) for s in chosen),
        )
    ]
    found: dict[str, list[Row]] = {}
    for row in gather(jobs, kept, WORKERS, functools.partial(run_named, {s.name: s.policy for s in chosen})):
        found.setdefault(row["policy"], []).append(row)
    return found


def scores(chosen: Sequence[Tuned], rows: Mapping[str, list[Row]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Per setting: its columns as ratios to first-come-first-served."""
    found = []
    for setting in chosen:
        label = f"{setting.name}@{FORECAST}" + ("+reload" if setting.reload else "")
        per_cell = ratios([*rows["fcfs"], *rows[setting.name]], label, "fcfs")
        found.append({name: summary(name, per_cell[name]) for name in columns})
    return found


def best_of(chosen: Sequence[Setting], columns: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Settings on one of the fronts, with and without reload apart, and the shipped ones."""
    kept = [setting for setting in chosen if setting.shipped]
    for reload in (False, True):
        places = [i for i, setting in enumerate(chosen) if setting.reload is reload]
        for names in MEANS_AND_TAILS:
            points = [tuple(columns[i][name][0] for name in names) for i in places]
            kept += [chosen[places[i]] for i in not_dominated(points)]
    return list(dict.fromkeys(kept))


def tuning(
    every: Sequence[Tuned], tuned: Sequence[Mapping[str, Any]], cells: Sequence[Cell], picked: int
) -> dict[str, Any]:
    """What is kept of how the settings were tuned."""
    return {
        "settings": len(every),
        "tuning_cells": [cell.name for cell in cells],
        "picked": picked,
        "tuned": [[s.name, *(c[name][0] for name in c)] for s, c in zip(every, tuned, strict=True)],
    }


def measure(options: Options) -> tuple[Figures, Targets]:
    """Tune, pick, judge."""
    every = settings()[:QUICK_SETTINGS] if options.quick else settings()
    cells = tuning_cells(QUICK_CELLS if options.quick else TUNING_CELLS)
    kept = None if options.quick else KEPT
    began_s = time.perf_counter()
    columns = ("ttft_mean", "e2e_mean", "e2e_p99", "long_ttft_p99")
    tuned = scores(every, replayed(every, cells, TUNED_ON, kept), columns)
    picked = best_of(every, tuned)
    judges = cells if options.quick else bound_cells()
    judged = scores(picked, replayed(picked, judges, JUDGED_ON, kept), KEPT_COLUMNS)
    figures = {
        **tuning(every, tuned, cells, len(picked)),
        "wall_s": time.perf_counter() - began_s,
        "judged": [{"setting": s.name, "reload": s.reload, "columns": c} for s, c in zip(picked, judged, strict=True)],
    }
    return figures, {}


if __name__ == "__main__":
    main("front", SEED, measure)
