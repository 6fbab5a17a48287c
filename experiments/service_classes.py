"""Classes of service: what a weight moves, and who pays.

On every KV-bound cell three requests in ten, whatever their size, are *interactive*, the others *batch*. Each policy is
replayed without classes and with the weights 4 and ¼; figures are with / without, geometric means over cells. Beside
them, against first-come-first-served: the same, and vLLM's own `--scheduling-policy priority`, interactive first.

    interactive_ttft_mean, _p99     time to first token of the interactive
    batch_ttft_mean, _p99           of the batch
    e2e_mean, e2e_p99               latency of all
    preemptions                     of all, total with / total without

Forecasts have log-noise 0.6; first seed. The program plans with 100 work units, on cells of fewer than 700 requests.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments._ablation import Row, bound_cells, pooled_ratio, run, total_ratio
from experiments._cells import Cell
from experiments._harness import Figures, Options, Targets, main
from kvhorizon.models.classes import read_classes
from kvhorizon.sim.in_process import InProcess
from kvhorizon.sim.policies import Policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup

SEED = 0
SHARE = 0.3
INTERACTIVE, BATCH = "interactive", "batch"
CLASSES = read_classes({INTERACTIVE: {"weight": 4}, BATCH: {"weight": 0.25}})
RULES = ("kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon:greedy/strict")
PLANNED = ("kvhorizon/means", "kvhorizon")
PRIORITY, FCFS = "priority", "fcfs"
FEW = 700
WITH = " with classes"
SHOWN = ("interactive_ttft_mean", "interactive_ttft_p99", "batch_ttft_mean", "batch_ttft_p99", "e2e_mean", "e2e_p99")


def named(setup: Setup) -> Setup:
    """The setup with a class and a priority for each request."""
    mine = np.random.default_rng(SEED).random(len(setup.trace)) < SHARE
    names = tuple(INTERACTIVE if one else BATCH for one in mine)
    trace = dataclasses.replace(setup.trace, slo_class=names, priority=np.where(mine, 0, 1))
    return dataclasses.replace(setup, trace=trace)


def columns(setup: Setup, policy: Policy) -> dict[str, float]:
    """What one replay came to."""
    solver = InProcess(policy.planner) if policy.planner else None
    outcome, trace = replay(setup, policy, solver), setup.trace
    ttft_s, e2e_s = outcome.first_token_s - trace.arrival_s, outcome.finish_s - trace.arrival_s
    found = {"e2e_mean": float(e2e_s.mean()), "e2e_p99": float(np.percentile(e2e_s, 99))}
    names = np.array(trace.slo_class)
    for name in (INTERACTIVE, BATCH):
        own = ttft_s[names == name]
        found |= {f"{name}_ttft_mean": float(own.mean()), f"{name}_ttft_p99": float(np.percentile(own, 99))}
    return {**found, "preemptions": float(outcome.preemptions.sum())}


def rows_of(cells: list[Cell], policies: tuple[str, ...]) -> list[Row]:
    """Every policy without classes, and with."""
    plain = run(cells, (SEED,), policies, lambda setup, policy: columns(named(setup), policy))
    weighed = run(
        cells,
        (SEED,),
        [name for name in policies if name not in (PRIORITY, FCFS)],
        lambda setup, policy: columns(dataclasses.replace(named(setup), classes=CLASSES), policy),
    )
    return plain + [{**row, "policy": row["policy"] + WITH} for row in weighed]


def compared(rows: list[Row], policy: str, reference: str) -> dict[str, float]:
    """Ratios of every figure."""
    found = {name: pooled_ratio(rows, policy, reference, name) for name in SHOWN}
    return {**found, "preemptions": total_ratio(rows, policy, reference, "preemptions")}


def measure(options: Options) -> tuple[Figures, Targets]:
    """The rules on all KV-bound cells, the program on the smaller ones."""
    cells = [cell for cell in bound_cells() if not options.quick or cell.requests < 300]
    few = [cell for cell in cells if cell.requests < FEW]
    rules = rows_of(cells, (FCFS, PRIORITY, *RULES))
    plans = [] if options.quick else rows_of(few, (FCFS, *PLANNED))
    figures = {f"{PRIORITY} / {FCFS}": compared(rules, PRIORITY, FCFS)}
    figures |= {f"{name}{WITH} / {FCFS}": compared(rules, name + WITH, FCFS) for name in RULES}
    figures |= {name: compared(rules, name + WITH, name) for name in RULES}
    figures |= {name: compared(plans, name + WITH, name) for name in PLANNED if plans}
    figures |= {f"{name}{WITH} / {FCFS}": compared(plans, name + WITH, FCFS) for name in PLANNED if plans}
    return {"cells": len(cells), "planned_cells": len(few), **figures}, {}


if __name__ == "__main__":
    main("service_classes", SEED, measure)
