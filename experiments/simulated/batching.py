"""Batching by risk: do long heavy requests still pile up in one batch?

*Heavy* are the tenth of a cell's requests with the greatest KV·time, output · (prompt + output / 2). Every few seconds
the batch that runs is looked at: how many heavy requests are in it, what they will hold together at their ends, and
its true future peak, were no other admitted to it, both as shares of the pool. Above 1 some request must be evicted.

    heavy_beyond_half   share of looks at which the heavy alone will need more than half of the pool
    heavy_beyond_pool   … more than the pool
    together_p99        heavy requests in a batch, 99th percentile of looks, relative to the reference's
    overcommitted       share of looks with a future peak above the pool
    peak_p99            future peak, 99th percentile [pools]

Forecasts have log-noise 0.6; KV-bound cells, first seed; means over cells.
"""

from __future__ import annotations

import numpy as np

from experiments.common._ablation import Row, bound_cells, of, run
from experiments.common._harness import Figures, Options, Targets, main
from experiments.common._plots import ALARM, OURS, THEIRS, canvas, save
from experiments.common._samples import peak_share, sampled
from kvhorizon.sim.engine.arrays import RUNNING, Engine
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.setup import Setup

SEED = 0
REFERENCE = "watermark:0.02"
POLICIES = ("fcfs", REFERENCE, "admission:reserve", "kvhorizon:greedy", "kvhorizon:greedy/means")
DRAWN = {"fcfs": THEIRS, REFERENCE: ALARM, "kvhorizon:greedy": OURS}
HEAVY_SHARE = 0.1
SHOWN = ("heavy_beyond_half", "heavy_beyond_pool", "overcommitted", "peak_p99")


def heavy(setup: Setup) -> np.ndarray:
    """(N,) whether each request is among the heaviest."""
    trace = setup.trace
    weight = trace.output_tokens * (trace.prompt_tokens + 0.5 * trace.output_tokens)
    return np.asarray(weight >= np.quantile(weight, 1.0 - HEAVY_SHARE))


def watched(setup: Setup, policy: Policy) -> dict[str, float]:
    """The columns of one replay."""
    is_heavy = heavy(setup)
    final = setup.trace.prompt_tokens + setup.trace.output_tokens
    pool = setup.facts.total_blocks * setup.facts.block_size

    def look(engine: Engine) -> tuple[float, ...]:
        batch = engine.lists.running[: engine.counters[RUNNING]]
        those = batch[is_heavy[batch]]
        return float(len(those)), float(final[those].sum()) / pool, peak_share(engine)

    together, share, peak = sampled(setup, policy, look).T
    return {
        "heavy_beyond_half": float((share > 0.5).mean()),
        "heavy_beyond_pool": float((share > 1.0).mean()),
        "together_mean": float(together.mean()),
        "together_p99": float(np.percentile(together, 99)),
        "overcommitted": float((peak > 1.0).mean()),
        "peak_p99": float(np.percentile(peak, 99)),
        **{f"heavy_{q:02d}": float(value) for q, value in zip(range(0, 101, 2), _quantiles(share), strict=True)},
    }


def _quantiles(share: np.ndarray) -> np.ndarray:
    return np.percentile(share, range(0, 101, 2))


def figures_of(rows: list[Row], policy: str) -> dict[str, float]:
    """Means over cells, and the ratio of what runs together."""
    found = {name: float(of(rows, policy, name).mean()) for name in SHOWN}
    ratio = of(rows, policy, "together_p99") / np.maximum(of(rows, REFERENCE, "together_p99"), 1.0)
    return {**found, "together_p99": float(ratio.mean())}


def draw(rows: list[Row]) -> None:
    """What the heavy requests of a batch will hold, over looks; and how often that is too much, cell by cell."""
    figure, axes = canvas(2, width=8.0)
    looks = np.arange(0, 101, 2)
    for policy, colour in DRAWN.items():
        line = np.mean([of(rows, policy, f"heavy_{q:02d}") for q in looks], axis=1)
        axes[0].plot(looks, line, color=colour, label=policy)
        beyond = np.sort(of(rows, policy, "overcommitted"))
        axes[1].step(100 * beyond, np.arange(1, len(beyond) + 1) / len(beyond), where="post", color=colour)
    axes[0].axhline(1.0, color="grey", linewidth=0.6)
    axes[0].set_title("what the heaviest tenth will hold [pools]")
    axes[0].set_xlabel("looks at the batch [%]")
    axes[0].legend()
    axes[1].set_title("cells, cumulative")
    axes[1].set_xlabel("looks with a future beyond the pool [%]")
    save(figure, "batching")


def measure(options: Options) -> tuple[Figures, Targets]:
    """Every policy on the KV-bound cells."""
    cells = [cell for cell in bound_cells() if not options.quick or cell.requests < 300]
    rows = run(cells, (SEED,), POLICIES, watched)
    if not options.quick:
        draw(rows)
    return {"cells": len(cells), **{policy: figures_of(rows, policy) for policy in POLICIES}}, {}


if __name__ == "__main__":
    main("batching", SEED, measure)
