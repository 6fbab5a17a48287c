"""Which requests to admit: admission alone, at the engine's own order and victims, on the KV-bound cells.

    watermark:0.02     keeps 2 % of the pool free, the reference; watermark:0.05 keeps more
    past-future        LightLLM: the future peak of sampled lengths fits
    admission:ours     the shipped greedy's reserve, between 2 % and 5 % of the pool as the forecast says
    admission:reserve  the same reserve with a cap of its own, tuned for this order

Ratios are geometric means over cells and seeds, each floored at 0.01, 0 to 0 as 1. Forecasts have log-noise 0.6.

Pile-up, on the first seed: every few seconds the *true* future peak of the batch that runs, were no other admitted to
it, relative to the pool; above 1 some request must be evicted. Its variance over a replay says how unevenly long
requests come together.
"""

from __future__ import annotations

import numpy as np

from experiments.common._ablation import (
    Row,
    bound_cells,
    columns,
    comparison,
    of,
    pooled_ratio,
    ratios,
    run,
    total_ratio,
)
from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.common._plots import ALARM, OURS, THEIRS, canvas, save
from experiments.common._samples import peak_share, sampled
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup

SEED = 0
SEEDS = (0, 1)
REFERENCE = "watermark:0.02"
OTHERS = ("watermark:0.05", "past-future", "admission:ours", "admission:reserve")
JUDGED = "admission:reserve"
PILED_UP = (REFERENCE, JUDGED)  # on the first seed
NAMED = ("preemptions", "wasted_flops", "throughput", "ttft_mean", "e2e_mean", "e2e_p99")


def watched(setup: Setup, policy: Policy) -> dict[str, float]:
    """Where asked for, the columns of the peaks besides those of a replay."""
    plainly = columns(setup, replay(setup, policy))
    if policy.name not in PILED_UP or setup.seed != SEEDS[0]:
        return plainly
    found = sampled(setup, policy, lambda engine: (peak_share(engine),))
    return {
        **plainly,
        "peak_mean": float(found.mean()),
        "peak_variance": float(found.var()),
        "peak_p99": float(np.percentile(found, 99)),
        "overcommitted": float((found > 1.0).mean()),
    }


def draw(rows: list[Row]) -> None:
    """Evictions against throughput and first tokens; how far batches overcommit."""
    figure, axes = canvas(3, width=9.0)
    for policy in OTHERS:
        colour = OURS if policy.startswith("admission") else THEIRS
        pre = pooled_ratio(rows, policy, REFERENCE, "preemptions")
        for axis, column in zip(axes, ("throughput", "ttft_mean"), strict=False):
            axis.plot([pre], [pooled_ratio(rows, policy, REFERENCE, column)], "o", color=colour)
            axis.annotate(policy, (pre, pooled_ratio(rows, policy, REFERENCE, column)), fontsize=7)
    for axis, title in zip(axes, ("throughput", "mean TTFT"), strict=False):
        axis.set_title(f"{title} / {REFERENCE}")
        axis.set_xlabel("evictions, relative")
        axis.margins(0.3, 0.1)
    seen = [row for row in rows if "overcommitted" in row]
    theirs, mine = (np.sort(of(seen, policy, "overcommitted")) for policy in PILED_UP)
    share = np.arange(1, len(mine) + 1) / len(mine)
    axes[2].step(100 * theirs, share, where="post", color=ALARM, label=REFERENCE)
    axes[2].step(100 * mine, share, where="post", color=OURS, label=JUDGED)
    axes[2].set_title("replays, cumulative")
    axes[2].set_xlabel("time over the pool [%]")
    axes[2].legend()
    save(figure, "admission")


def pile_up(rows: list[Row], policy: str) -> dict[str, float]:
    """How far the batch's own future exceeds the pool, and how unevenly; first seed only."""
    rows = [row for row in rows if "overcommitted" in row]
    return {
        "peak_mean": float(of(rows, policy, "peak_mean").mean()),
        "peak_p99": float(of(rows, policy, "peak_p99").mean()),
        "overcommitted": float(of(rows, policy, "overcommitted").mean()),
        "peak_variance_vs_watermark": pooled_ratio(rows, policy, REFERENCE, "peak_variance"),
    }


def measure(options: Options) -> tuple[Figures, Targets]:
    """Every admission test against the watermark."""
    cells = [cell for cell in bound_cells() if not options.quick or cell.requests < 300]
    rows = run(cells, SEEDS[: 1 if options.quick else None], [REFERENCE, *OTHERS], watched)
    against = {policy: comparison(rows, policy, REFERENCE, NAMED) for policy in OTHERS}
    if not options.quick:
        draw(rows)
    figures = {
        "replays_per_policy": len(of(rows, REFERENCE, "requests")),
        "replays_with_evictions_under_watermark": int((of(rows, REFERENCE, "preemptions") > 0).sum()),
        "evictions_avoided": {policy: 1.0 - total_ratio(rows, policy, REFERENCE, "preemptions") for policy in OTHERS},
        "vs_watermark": against,
        "pile_up": {policy: pile_up(rows, policy) for policy in PILED_UP},
        "preemptions_by_cell": dict(
            zip(
                [f"{row['cell']} {row['seed']}" for row in rows if row["policy"] == JUDGED],
                ratios(rows, JUDGED, REFERENCE, "preemptions"),
                strict=True,
            )
        ),
    }
    return figures, {"preemptions_vs_watermark": target(against[JUDGED]["preemptions"], "<=0.4")}


if __name__ == "__main__":
    main("admission", SEED, measure)
