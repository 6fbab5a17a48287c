"""Classes of service: what a weight or a promise moves, and who pays.

On every KV-bound cell three requests in ten, whatever their size, are *interactive*, the others *batch*. Each policy is
replayed without classes, with the weights 4 and ¼, and with a first token promised to the interactive in PROMISED_S;
figures are with / without, geometric means over cells. Beside them, against first-come-first-served: the same, and
vLLM's own `--scheduling-policy priority`, interactive first.

    interactive_in_time             share whose first token came within PROMISED_S, mean over cells: with − without
    interactive_ttft_mean, _p99     time to first token of the interactive
    batch_ttft_mean, _p99           of the batch
    e2e_mean, e2e_p99               latency of all
    preemptions                     of all, total with / total without

Forecasts have log-noise 0.6; first seed. The program plans with 100 work units, on cells of fewer than 700 requests.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.common._ablation import Row, bound_cells, of, pooled_ratio, run, total_ratio
from experiments.common._cells import Cell
from experiments.common._harness import Figures, Options, Targets, main
from kvhorizon.models.slo.classes import Classes, read_classes
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup

SEED = 0
SHARE = 0.3
INTERACTIVE, BATCH = "interactive", "batch"
PROMISED_S = 10.0
GIVEN = {
    " with classes": read_classes({INTERACTIVE: {"weight": 4}, BATCH: {"weight": 0.25}}),
    " with promises": read_classes({INTERACTIVE: {"ttft_s": PROMISED_S}, BATCH: {}}),
}
RULES = ("kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon:greedy/strict")
PLANNED = ("kvhorizon/means", "kvhorizon")
PRIORITY, FCFS = "priority", "fcfs"
FEW = 700
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
    in_time = float((ttft_s[names == INTERACTIVE] <= PROMISED_S).mean())
    return {**found, "interactive_in_time": in_time, "preemptions": float(outcome.preemptions.sum())}


def rows_of(cells: list[Cell], policies: tuple[str, ...]) -> list[Row]:
    """Every policy without classes, and with."""
    found = run(cells, (SEED,), policies, lambda setup, policy: columns(named(setup), policy))
    ours = [name for name in policies if name not in (PRIORITY, FCFS)]
    for told, classes in GIVEN.items():

        def measured(setup: Setup, policy: Policy, classes: Classes = classes) -> dict[str, float]:
            return columns(dataclasses.replace(named(setup), classes=classes), policy)

        found += [{**row, "policy": row["policy"] + told} for row in run(cells, (SEED,), ours, measured)]
    return found


def compared(rows: list[Row], policy: str, reference: str) -> dict[str, float]:
    """Ratios of every figure."""
    found = {name: pooled_ratio(rows, policy, reference, name) for name in SHOWN}
    gained = of(rows, policy, "interactive_in_time") - of(rows, reference, "interactive_in_time")
    found["interactive_in_time"] = float(gained.mean())
    return {**found, "preemptions": total_ratio(rows, policy, reference, "preemptions")}


def measure(options: Options) -> tuple[Figures, Targets]:
    """The rules on all KV-bound cells, the program on the smaller ones."""
    cells = [cell for cell in bound_cells() if not options.quick or cell.requests < 300]
    few = [cell for cell in cells if cell.requests < FEW]
    rules = rows_of(cells, (FCFS, PRIORITY, *RULES))
    plans = [] if options.quick else rows_of(few, (FCFS, *PLANNED))
    figures = {f"{PRIORITY} / {FCFS}": compared(rules, PRIORITY, FCFS)}
    for rows, names in ((rules, RULES), (plans, PLANNED if plans else ())):
        for told in GIVEN:
            figures |= {f"{name}{told}": compared(rows, name + told, name) for name in names}
            figures |= {f"{name}{told} / {FCFS}": compared(rows, name + told, FCFS) for name in names}
    return {"cells": len(cells), "planned_cells": len(few), **figures}, {}


if __name__ == "__main__":
    main("service_classes", SEED, measure)
