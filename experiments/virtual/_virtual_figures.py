"""What a run under the virtual clock meant to its clients and to the engine."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from experiments.live.defaults._defaults_loads import NAMES, make_load
from experiments.virtual._virtual_drive import CONTENDERS, MODELS, Drive, Seen, Totals, solver_child

Row = dict[str, float]


def figures(seen: Sequence[Seen], totals: Totals) -> Row:
    """Seconds, counts per request, and shares."""
    sent, first, last = np.array([(one.sent_s, one.first_s, one.last_s) for one in seen]).T
    output = np.array([one.ask.output_tokens for one in seen])
    prompt = np.array([len(one.ask.prompt) for one in seen])
    opening = np.array([one.ask.turn == 0 for one in seen])
    ttft, e2e, several = first - sent, last - sent, output > 1
    makespan = float(last.max())
    tpot = (last - first)[several] / (output - 1)[several]
    later = ttft[~opening] if (~opening).any() else np.array([np.nan])
    return {
        "requests_s": len(seen) / makespan,
        "tokens_s": float((prompt + output).sum()) / makespan,
        "ttft_mean": float(ttft.mean()),
        "ttft_p50": float(np.quantile(ttft, 0.5)),
        "ttft_p99": float(np.quantile(ttft, 0.99)),
        "ttft_first": float(ttft[opening].mean()),
        "ttft_later": float(later.mean()),
        "tpot_mean": float(tpot.mean()),
        "e2e_mean": float(e2e.mean()),
        "e2e_p99": float(np.quantile(e2e, 0.99)),
        "preemptions": float(sum(one.preemptions for one in seen)),
        "computed": totals.prefill_tokens / len(seen),
        "hits": float(sum(one.found for one in seen)) / float(prompt.sum()),
        "busy": totals.busy_s / makespan,
        "steps": float(totals.steps),
        "plans": float(totals.asked),
    }


def main() -> None:
    """One line of figures per contender and seed, then ratios of the means to plain vLLM and to the watermark."""
    parser = argparse.ArgumentParser(prog="python -m experiments._virtual_drive", description=__doc__)
    parser.add_argument("--load", default="shared", choices=NAMES)
    parser.add_argument("--contender", default="rules", help=f"of {', '.join(CONTENDERS)}; several with commas")
    parser.add_argument("--seeds", default="100", help="with commas")
    parser.add_argument("--model", default="tiny", choices=MODELS)
    parser.add_argument("--requests", default=1500, type=int)
    parser.add_argument("--blocks", type=int, help="in place of the load's own")
    options = parser.parse_args()
    names = ["plain", "watermark", *(name for name in options.contender.split(",") if name in ("rules", "program"))]
    print(" " * 16 + " ".join(f"{name:>11}" for name in KEYS))
    rows = {name: [] for name in names}
    with ExitStack() as stack:
        solver = stack.enter_context(solver_child()) if "program" in names else None
        for seed in map(int, options.seeds.split(",")):
            for name in names:
                load = make_load(options.load, options.requests, seed)
                if options.blocks:
                    load = dataclasses.replace(load, blocks=options.blocks)
                drive = Drive(load, CONTENDERS[name], MODELS[options.model], solver)
                row = figures(drive.run(), drive.totals)
                rows[name].append(row)
                print(f"{name:<10} {seed:>4}  " + " ".join(f"{row[key]:>11.4g}" for key in KEYS), flush=True)
    for name in names[2:]:
        for against in ("plain", "watermark"):
            ratios = {key: _ratio(mean(rows[name], key), mean(rows[against], key)) for key in KEYS}
            print(f"{name}/{against:<10}  " + " ".join(f"{ratios[key]:>11.3f}" for key in KEYS))


KEYS = (
    "requests_s",
    "ttft_mean",
    "ttft_p50",
    "ttft_p99",
    "ttft_first",
    "ttft_later",
    "tpot_mean",
    "e2e_mean",
    "e2e_p99",
    "preemptions",
    "computed",
    "hits",
    "busy",
    "steps",
    "plans",
)


def mean(rows: Sequence[Row], key: str) -> float:
    """Over seeds."""
    return float(np.mean([row[key] for row in rows]))


def _ratio(ours: float, theirs: float) -> float:
    """Nan where there is nothing to compare with."""
    return ours / theirs if theirs else float("nan")
