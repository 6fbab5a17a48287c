"""Is the scheduler plugin ever worse than plain vLLM on vLLM's own defaults, were there no noise? Needs `make engine`.

vLLM's real scheduler with prefix caching on, the real plugin and its solver child, under a virtual clock
(`_virtual_drive`): five closed-loop loads (`_defaults_loads`), two step-time models, seeds 0 … SEEDS − 1. Every
contender serves the same requests. Figures are means over the seeds, ratios are of means, and the worst of the ten
cases counts. `sim_difference` puts open-loop arrivals, those of plain vLLM's closed loop, through the drive and through
the simulator (`_virtual_sim`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.live.defaults._defaults_loads import NAMES
from experiments.virtual._virtual_runs import Case, Found, all_contenders, run_all
from experiments.virtual._virtual_sim import difference

SEEDS, QUICK_SEEDS = 20, 1
REQUESTS, QUICK_REQUESTS = 300, 200
MODELS = "tiny", "heavy"
CONTENDERS = "plain", "watermark", "rules", "program"
Rows = Mapping[str, Mapping[str, float]]  # means over the seeds, by contender
COMPARED = "requests_s", "ttft_mean", "ttft_p99", "tpot_mean", "e2e_mean", "e2e_p99", "computed"


def measure(options: Options) -> tuple[Figures, Targets]:
    """All cases on two processes, then the simulator's twin runs."""
    seeds = range(QUICK_SEEDS if options.quick else SEEDS)
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    cases = [Case(load, model, seed, requests) for load in NAMES for model in MODELS for seed in seeds]
    found = run_all(all_contenders, cases)
    means = {(load, model): _means(found, load, model) for load in NAMES for model in MODELS}
    simulated = difference(seeds, requests)
    figures: dict[str, Any] = {"requests_per_run": requests, "seeds": len(seeds), "against_simulator": simulated}
    for (load, model), rows in means.items():
        figures[f"{load}_{model}"] = {
            "means": rows,
            "program_to_plain": {key: _ratio(rows, key, "program", "plain") for key in COMPARED},
            "rules_to_plain": {key: _ratio(rows, key, "rules", "plain") for key in COMPARED},
        }
    return figures, {**_targets(means), "sim_difference": target(_worst_difference(simulated), "<=0.03")}


def _means(found: Iterable[Found], load: str, model: str) -> dict[str, dict[str, float]]:
    """Over the seeds of one case, by contender."""
    mine = [one.rows for one in found if (one.case.load, one.case.model) == (load, model)]
    return {
        name: {key: float(np.mean([rows[name][key] for rows in mine])) for key in mine[0][name]} for name in CONTENDERS
    }


def _ratio(rows: Rows, key: str, ours: str, theirs: str) -> float:
    return rows[ours][key] / rows[theirs][key]


def _to_better(rows: Rows, key: str) -> float:
    """To the better of plain vLLM and its watermark."""
    of_both = [_ratio(rows, key, "program", theirs) for theirs in ("plain", "watermark")]
    return min(of_both) if key == "requests_s" else max(of_both)


def _targets(means: Mapping[tuple[str, str], Rows]) -> dict[str, Any]:
    def to_plain(key: str) -> list[float]:
        return [_ratio(rows, key, "program", "plain") for rows in means.values()]

    def to_better(load: str, key: str) -> list[float]:
        return [_to_better(rows, key) for (name, _), rows in means.items() if name == load]

    def over_rules(key: str) -> float:
        return max(_ratio(rows, key, "program", "rules") for rows in means.values())

    return {
        "v_throughput_worst": target(min(to_plain("requests_s")), ">=0.98"),
        "v_ttft_mean_worst": target(max(to_plain("ttft_mean")), "<=1.03"),
        "v_ttft_p99_worst": target(max(to_plain("ttft_p99")), "<=1.10"),
        "v_shared_throughput": target(min(to_better("shared", "requests_s")), ">=1.0"),
        "v_shared_ttft_mean": target(max(to_better("shared", "ttft_mean")), "<=0.9"),
        "v_sessions_ttft_mean": target(max(to_better("sessions", "ttft_mean")), "<=0.9"),
        "v_sessions_ttft_p99": target(max(to_better("sessions", "ttft_p99")), "<=1.0"),
        "v_program_over_rules_ttft": target(over_rules("ttft_mean"), "<=1.0"),
        "v_program_over_rules_e2e": target(over_rules("e2e_mean"), "<=1.0"),
    }


def _worst_difference(simulated: Mapping[str, Mapping[str, float]]) -> float:
    """Of any load, policy and figure."""
    return max(abs(value) for row in simulated.values() for value in row.values())


if __name__ == "__main__":
    main("defaults_virtual", 0, measure)
