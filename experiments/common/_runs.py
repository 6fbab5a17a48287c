"""Replays of the scoreboard, kept one by one as JSON lines so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common._cells import Cell, build, tpot_target
from experiments.common._sources import digest_of
from kvhorizon import __version__
from kvhorizon.sim.isolated import alone
from kvhorizon.sim.metrics import summarize
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import Policy, parse_policy
from kvhorizon.sim.replay import replay

ANY_FORECAST = "none"  # of policies that look at none
Row = dict[str, Any]


class Job(NamedTuple):
    """One replay; `reload_s` [s/token] > 0 lets preempted KV come back from host memory."""

    cell: Cell
    seed: int
    policy: str
    forecast: str
    reload_s: float = 0.0

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.cell.name, self.seed, self.policy, self.forecast, self.reload_s)


def key_of(row: Row) -> tuple[Any, ...]:
    return (row["cell"], row["seed"], row["policy"], row["forecast"], row["reload_s"])


def run_one(job: Job, policy: Policy) -> Row:
    """One replay and all its columns."""
    setup = build(job.cell, job.seed, "history" if job.forecast == ANY_FORECAST else job.forecast, job.reload_s)
    began = time.process_time()
    outcome = replay(setup, policy, InProcess(policy.planner, program=policy.program) if policy.planner else None)
    cpu_s = time.process_time() - began
    prefill_s, service_s = alone(setup)
    columns = summarize(
        setup.trace,
        outcome,
        prefill_alone_s=prefill_s,
        service_alone_s=service_s,
        tpot_target_s=tpot_target(job.cell),
    )
    about = {"cell": job.cell.name, "kind": job.cell.kind, "seed": job.seed, "policy": job.policy}
    rest = {"forecast": job.forecast, "reload_s": job.reload_s, "version": __version__, "cpu_s": round(cpu_s, 3)}
    return {**about, **rest, "sources": digest_of("_runs"), "columns": columns}


def is_current(row: Row) -> bool:
    """Whether a row is of the code as it is."""
    return bool(row.get("sources") == digest_of("_runs"))


def run_jobs(jobs: Sequence[Job]) -> list[Row]:
    """Jobs of one cell and seed, whose trace is then built once."""
    return [run_one(job, parse_policy(job.policy)) for job in jobs]


def load(path: Path) -> dict[tuple[Any, ...], Row]:
    """Rows kept by earlier runs, by key; the last of the same key counts."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {key_of(row): row for row in rows}


def grouped(jobs: Iterable[Job]) -> list[list[Job]]:
    """By cell and seed, in order."""
    groups: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.cell.name, job.seed), []).append(job)
    return list(groups.values())


def _each(groups: list[list[Job]], workers: int, work: Any) -> Iterator[list[Row]]:
    if workers <= 1:
        yield from map(work, groups)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(work, groups)


def gather(jobs: Sequence[Job], path: Path | None, workers: int = 1, work: Any = run_jobs) -> list[Row]:
    """Rows of all jobs: those kept in `path` of the code as it is, and those still to be run, which are added to it."""
    kept = {key: row for key, row in (load(path) if path else {}).items() if is_current(row)}
    missing = grouped(job for job in jobs if job.key not in kept)
    for i, rows in enumerate(_each(missing, workers, work)):
        kept.update((key_of(row), row) for row in rows)
        if path:
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"\r{i + 1}/{len(missing)}", end="", file=sys.stderr, flush=True)
    return [kept[job.key] for job in jobs]
