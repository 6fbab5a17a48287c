"""Which requests to evict: victim rules alone, at the engine's own order and a watermark of 2 %, on the KV-bound cells.

Rules, all in `kvhorizon.sim.policies.baselines.victim` but ours:

    lifo            the last that began to run (vLLM)
    least-computed  the fewest tokens computed
    flops-per-mb    the fewest FLOPs of recompute per byte freed
    remaining-time  the longest predicted output still to come
    ours            KV·time to come / (recompute time · times preempted · age), as the shipped greedy does
    thrifty         the fewest FLOPs of recompute among those unlikely to be near their end

Ratios are geometric means over cells and seeds, each floored at 0.01, 0 to 0 as 1. Evictions of requests past 80 % of
their output are few in a cell, so they are also compared in total. Forecasts have log-noise 0.6.
"""

from __future__ import annotations

from experiments.common._ablation import Row, bound_cells, comparison, of, pooled_ratio, ratios, run, total_ratio
from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.common._plots import OURS, THEIRS, canvas, save

SEED = 0
SEEDS = (0, 1)
LIFO = "victims:lifo"
RULES = ("least-computed", "flops-per-mb", "remaining-time", "ours", "thrifty")
NAMED = ("preemptions", "wasted_flops", "recompute_gpu_s", "throughput", "ttft_mean", "e2e_mean", "e2e_p99")
NEAR = "near_finished_evictions"
JUDGED = "victims:thrifty"


def draw(rows: list[Row], policies: list[str]) -> None:
    """Each cell's wasted FLOPs and the total of late evictions, per rule."""
    figure, (left, right) = canvas(2)
    names = [policy.removeprefix("victims:") for policy in policies]
    for place, policy in enumerate(policies):
        found = ratios(rows, policy, LIFO, "wasted_flops")
        left.plot([place] * len(found), found, "o", color=THEIRS, alpha=0.5, mec="none")
        left.plot([place], [comparison(rows, policy, LIFO, ["wasted_flops"])["wasted_flops"]], "D", color=OURS, ms=6)
    left.axhline(1.0, color="black", lw=0.6)
    left.set_yscale("log")
    left.set_title("FLOPs computed again, relative to LIFO")
    right.bar(range(len(names) + 1), [of(rows, policy, NEAR).sum() for policy in [LIFO, *policies]], color=THEIRS)
    right.set_title("evictions past 80 % of the output")
    left.set_xticks(range(len(names)), names, rotation=20, ha="right")
    right.set_xticks(range(len(names) + 1), ["lifo", *names], rotation=20, ha="right")
    save(figure, "victims")


def measure(options: Options) -> tuple[Figures, Targets]:
    """Every rule against LIFO."""
    cells = [cell for cell in bound_cells() if not options.quick or cell.requests < 300]
    policies = [f"victims:{rule}" for rule in RULES]
    rows = run(cells, SEEDS[: 1 if options.quick else None], [LIFO, *policies])
    crowded = {(row["cell"], row["seed"]) for row in rows if row["policy"] == LIFO and row["preemptions"] > 0}
    evicting = [row for row in rows if (row["cell"], row["seed"]) in crowded]
    against = {
        policy.removeprefix("victims:"): {
            **comparison(rows, policy, LIFO, NAMED),
            NEAR: comparison(rows, policy, LIFO, [NEAR])[NEAR],
            f"{NEAR}_total": total_ratio(rows, policy, LIFO, NEAR),
            "wasted_flops_total": total_ratio(rows, policy, LIFO, "wasted_flops"),
            "wasted_flops_where_lifo_evicts": pooled_ratio(evicting, policy, LIFO, "wasted_flops"),
        }
        for policy in policies
    }
    late = {policy: float(of(rows, policy, NEAR).sum()) for policy in [LIFO, *policies]}
    figures = {
        "replays_per_rule": len(of(rows, LIFO, "requests")),
        "replays_with_evictions_under_lifo": len(crowded),
        "near_finished_evictions": late,
        "vs_lifo": against,
    }
    if not options.quick:
        draw(rows, policies)
    judged = against[JUDGED.removeprefix("victims:")]
    return figures, {
        "wasted_flops_vs_lifo": target(judged["wasted_flops"], "<=0.7"),
        "near_finished_evictions_vs_lifo": target(judged[f"{NEAR}_total"], "<=0.1"),
    }


if __name__ == "__main__":
    main("victims", SEED, measure)
