"""From rounds to figures and targets: medians of each round's own ratios, since other work on the machine drifts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common._harness import target
from experiments.live.defaults._defaults_measure import Row

Round = Mapping[str, Row]
COSTS = ("engine_s", "work_s", "cpu_s")
TIMES = ("ttft_s", "tpot_s", "e2e_s")
BASELINES = ("plain", "watermark")


def ratios(rounds: Sequence[Round], name: str, to: Sequence[str] = ("plain",)) -> dict[str, float]:
    """A contender's times and throughput to those of another, or of the better of several, in the same round."""
    found = {"throughput": statistics.median(_ratio(one, name, to, "throughput_req_s", best=max) for one in rounds)}
    for key in TIMES:
        for part in ("mean", "p99"):
            several = [_ratio(one, name, to, key, part) for one in rounds]
            found[f"{key.removesuffix('_s')}_{part}"] = statistics.median(several)
    return found | {key: statistics.median(_ratio(one, name, to, key) for one in rounds) for key in COSTS}


def _ratio(one: Round, name: str, to: Sequence[str], *path: str, best: Any = min) -> float:
    return float(_at(one[name], path) / best(_at(one[other], path) for other in to))


def _at(row: Any, path: Sequence[str]) -> float:
    for key in path:
        row = row[key]
    return float(row)


def together(rounds: Sequence[Round]) -> dict[str, Any]:
    """One cell: ratios to plain vLLM, means of times over the rounds, counts in all."""
    names = list(rounds[0])
    return {
        "rounds": len(rounds),
        "ratios": {name: ratios(rounds, name) for name in names if name != "plain"},
        "program_to_better": ratios(rounds, "program", BASELINES),
        "means": {name: _means([one[name] for one in rounds]) for name in names},
        "each_round": rounds,
    }


def _means(rows: Sequence[Row]) -> Row:
    found: Row = {
        f"{key}_{part}": statistics.fmean(row[key][part] for row in rows) for key in TIMES for part in ("mean", "p99")
    }
    for key in ("throughput_req_s", "prefill_tokens", "prompt_tokens", *COSTS):
        found[key] = statistics.fmean(row[key] for row in rows)
    for key in ("requests", "preemptions", "recompute_tokens", "errors", "steps"):
        found[key] = sum(row[key] for row in rows)
    return found


def targets(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Worst of all cells to plain vLLM; `shared` and `sessions` to the better of plain vLLM and its watermark."""
    plain = [one["ratios"]["program"] for one in cells.values()]
    found = {
        "throughput_worst": target(min(one["throughput"] for one in plain), ">=0.98"),
        "ttft_mean_worst": target(max(one["ttft_mean"] for one in plain), "<=1.03"),
        "ttft_p99_worst": target(max(one["ttft_p99"] for one in plain), "<=1.10"),
    }
    limits = {
        "shared": {"throughput": ">=1.0", "ttft_mean": "<=0.9"},
        "sessions": {"ttft_mean": "<=0.9", "ttft_p99": "<=1.0"},
    }
    for load, wanted in limits.items():
        better = [one["program_to_better"] for name, one in cells.items() if name.endswith(" " + load)]
        for key, limit in wanted.items():
            worst = min if limit[0] == ">" else max
            found[f"{load}_{key}"] = target(worst(one[key] for one in better), limit)
    return found
