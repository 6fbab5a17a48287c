"""What recomputation costs: FLOPs, GPU time, tokens and latency, by workload, load and scheduler.

8B on one A100 40 GB. Lengths known up to log-noise 0.6, to those that ask for them. Load is arrivals relative to what
first-come-first-served completes when all arrive at once. Latency lost is mean end-to-end latency against the same
scheduler on an engine that recomputes for free: what is left is waiting for memory, which recomputation did not cause.
Where the free engine is slower by chance of what runs together, the loss is negative; it is shown as it is.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments.common._ablation import Row, plain
from experiments.common._cells import Cell, build
from experiments.common._harness import Figures, Options, Targets, main
from experiments.common._plots import canvas, save
from kvhorizon.sim.policies.registry import parse_policy

SEED = 0
WORKLOADS = {"mixed": 600, "chat": 1000, "reasoning": 300, "azure23_conv": 1500, "servegen_r1": 300}
LOADS = (0.6, 0.8, 1.0, 1.2, 1.5)
POLICIES = ("fcfs", "watermark:0.02", "sjf", "srpt", "mc-sf", "kvhorizon:greedy")
SHARES = ("recompute_fraction", "gpu_share", "token_share", "preemption_frequency")
HURTS, HARMLESS = 0.02, 0.005  # of mean latency


def one(name: str, load: float, policies: tuple[str, ...]) -> list[Row]:
    """All policies on one workload at one load."""
    cell = Cell(name, "llama-3.1-8b", "a100-40gb", 1, load, WORKLOADS[name], kind="")
    setup = build(cell, SEED)
    rows = []
    for text in policies:
        policy = parse_policy(text)
        paid, free = (plain(setup, dataclasses.replace(policy, free_recompute=free)) for free in (False, True))
        lost = 1.0 - free["e2e_mean"] / paid["e2e_mean"]
        rows.append({"workload": name, "load": load, "policy": text, **paid, "latency_lost": lost})
    print(".", end="", file=sys.stderr, flush=True)
    return rows


def table(rows: list[Row]) -> dict[str, Any]:
    """{workload: {policy: {column: [per load]}}}, shares of all there is of each."""
    found: dict[str, Any] = {}
    for row in rows:
        columns = found.setdefault(row["workload"], {}).setdefault(row["policy"], {})
        for name in (*SHARES, "latency_lost", "e2e_mean"):
            columns.setdefault(name, []).append(row[name])
    return found


def places(rows: list[Row], policy: str) -> dict[str, list[str]]:
    """Where recomputation hurts a policy's mean latency, and where it hardly shows."""
    named = [(f"{row['workload']} at {row['load']}", row["latency_lost"]) for row in rows if row["policy"] == policy]
    return {
        "hurts": [name for name, lost in named if lost >= HURTS],
        "harmless": [name for name, lost in named if abs(lost) < HARMLESS],
    }


def draw(rows: list[Row], workloads: list[str], policies: tuple[str, ...]) -> None:
    """Share of GPU time above, of latency below; one column per workload."""
    figure, axes = canvas(len(workloads), 2, width=2.2 * len(workloads) + 1.5, height=4.6, sharex=True, squeeze=False)
    for axis, name in zip(axes.T, workloads, strict=True):
        for policy in policies:
            mine = [row for row in rows if row["workload"] == name and row["policy"] == policy]
            loads = [row["load"] for row in mine]
            axis[0].plot(loads, [100 * row["gpu_share"] for row in mine], "o-", label=policy)
            axis[1].plot(loads, [100 * row["latency_lost"] for row in mine], "o-")
        axis[0].set_title(name)
        axis[1].set_xlabel("load")
    axes[0, 0].set_ylabel("GPU time on it [%]")
    axes[1, 0].set_ylabel("mean latency lost [%]")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    save(figure, "recompute_overhead")


def measure(options: Options) -> tuple[Figures, Targets]:
    """Shares per workload, policy and load; where it hurts; the picture."""
    workloads = ["chat"] if options.quick else list(WORKLOADS)
    policies = POLICIES[:3] if options.quick else POLICIES
    loads = LOADS[::4] if options.quick else LOADS
    rows = [row for name in workloads for load in loads for row in one(name, load, policies)]
    if not options.quick:
        draw(rows, workloads, policies)
    worst = {policy: float(np.max([r["gpu_share"] for r in rows if r["policy"] == policy])) for policy in policies}
    figures = {
        "loads": loads,
        "shares": table(rows),
        "worst_gpu_share": worst,
        "fcfs": places(rows, "fcfs"),
        "sjf": places(rows, "sjf"),
    }
    return figures, {}


if __name__ == "__main__":
    main("recompute_overhead", SEED, measure)
