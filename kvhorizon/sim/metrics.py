"""What a replay means to users and to the engine, as plain numbers; definitions as in the glossary of `docs/`.

* throughput: useful tokens (each prompt and output token once) of finished requests / makespan; in-window: those of
  requests that finished by the last arrival / last arrival
* goodput: share of requests with TTFT <= 2 s + 2 × their own unloaded prefill time and mean TPOT <= the target
* slowdown: end-to-end latency / latency alone on the engine
* SLO attainment: share of the requests of classes with targets that met every target of their class
* longest decile: the tenth of the requests with the longest outputs
* recompute_fraction: FLOPs of recomputation / all FLOPs
* cached_share: prompt tokens found in the prefix cache / those looked up, when requests are admitted for the first time
* prefill_tokens_per_request: tokens computed that were not the one new token of a decode, recomputation included
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.slo.classes import NONE, Classes
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.workload.trace import Trace

FloatArray = NDArray[np.float64]
TTFT_TARGET_S = 2.0
PREFILL_ALLOWANCE = 2.0
LONGEST_SHARE = 0.1


def _plain(value: float) -> float | None:
    """A JSON number; what is not finite is absent."""
    return float(value) if math.isfinite(value) else None


def spread(values: FloatArray) -> dict[str, float | None]:
    """Mean and percentiles of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"mean": None, "p50": None, "p90": None, "p99": None}
    p50, p90, p99 = np.percentile(finite, [50, 90, 99])
    return {"mean": float(finite.mean()), "p50": float(p50), "p90": float(p90), "p99": float(p99)}


def _time_to_share(finish_s: FloatArray, tokens: FloatArray, share: float) -> float | None:
    """When that share of the useful tokens belonged to finished requests [s]."""
    order = np.argsort(finish_s)
    done = np.cumsum(tokens[order])
    place = int(np.searchsorted(done, share * tokens.sum()))
    return _plain(finish_s[order[min(place, len(order) - 1)]])


def longest(output_tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) whether a request is among the tenth with the longest outputs; at least one is."""
    size = max(1, round(LONGEST_SHARE * len(output_tokens)))
    chosen = np.zeros(len(output_tokens), bool)
    chosen[np.argsort(-output_tokens, kind="stable")[:size]] = True
    return chosen


def _promises(trace: Trace, classes: Classes, ttft: FloatArray, tpot: FloatArray) -> dict[str, Any]:
    """Of each class of service that the trace has requests of; nothing where no classes were given."""
    if trace.slo_class is None or not classes.given:
        return {"slo_attainment": None, "classes": {}}
    member = np.array([classes.known(name) for name in trace.slo_class])
    found, kept, promised = {}, 0, 0
    for name, one in classes.of.items():
        rows = np.flatnonzero(member == name)
        if not len(rows):
            continue
        met = one.met(ttft[rows], tpot[rows])
        found[name] = {
            "requests": len(rows),
            "weight": one.weight,
            "ttft_s": spread(ttft[rows]),
            "tpot_s": spread(tpot[rows]),
            "slo_attainment": float(met.mean()) if one.promises else None,
        }
        kept, promised = kept + int(met.sum()) * one.promises, promised + len(rows) * one.promises
    return {"slo_attainment": kept / promised if promised else None, "classes": found}


def _computed(outcome: Outcome) -> dict[str, Any]:
    """What was computed again, and what the prefix cache saved."""
    wasted = float(outcome.wasted_flops.sum())
    return {
        "preemptions": int(outcome.preemptions.sum()),
        "preemption_frequency": float(outcome.preemptions.mean()),
        "recompute_tokens": int(outcome.recompute_tokens.sum()),
        "wasted_flops": wasted,
        "recompute_fraction": wasted / outcome.flops if outcome.flops > 0.0 else 0.0,
        "recompute_gpu_s": outcome.recompute_s,
        "cached_tokens": outcome.cached_tokens,
        "cached_share": outcome.cached_prompt_tokens / outcome.looked_up_tokens if outcome.looked_up_tokens else 0.0,
    }


def summarize(
    trace: Trace,
    outcome: Outcome,
    *,
    prefill_alone_s: FloatArray,
    service_alone_s: FloatArray,
    tpot_target_s: float,
    classes: Classes = NONE,
) -> dict[str, Any]:
    """One policy's entry of `results.json`. `…_alone_s` (N,) are seconds on an idle engine."""
    finished = np.isfinite(outcome.finish_s)
    ttft = outcome.first_token_s - trace.arrival_s
    e2e = outcome.finish_s - trace.arrival_s
    several = trace.output_tokens > 1
    tpot = np.full(len(trace), np.nan)
    tpot[several] = (outcome.finish_s - outcome.first_token_s)[several] / (trace.output_tokens[several] - 1)
    slowdown = e2e / service_alone_s
    tokens = np.where(finished, trace.prompt_tokens + trace.output_tokens, 0).astype(np.float64)
    last_arrival = float(trace.arrival_s[-1])
    in_window = tokens[outcome.finish_s <= last_arrival].sum()
    good = (ttft <= TTFT_TARGET_S + PREFILL_ALLOWANCE * prefill_alone_s) & (~several | (tpot <= tpot_target_s))
    long = longest(trace.output_tokens)
    decoded = int((trace.output_tokens[finished] - 1).sum())
    return {
        "requests": len(trace),
        "finished": int(finished.sum()),
        **_computed(outcome),
        "prefill_tokens_per_request": (outcome.computed_tokens - decoded) / len(trace),
        "gpu_utilization": outcome.busy_s / outcome.makespan_s,
        "throughput_tok_s": float(tokens.sum()) / outcome.makespan_s,
        "throughput_in_window_tok_s": float(in_window) / last_arrival if last_arrival > 0.0 else None,
        "makespan_s": outcome.makespan_s,
        "time_to_90pct_s": _time_to_share(outcome.finish_s, tokens, 0.90),
        "time_to_99pct_s": _time_to_share(outcome.finish_s, tokens, 0.99),
        "ttft_s": spread(ttft),
        "tpot_s": spread(tpot),
        "e2e_s": spread(e2e),
        "slowdown": {**spread(slowdown), "max": _plain(float(np.nanmax(slowdown)))},
        "long_ttft_s": spread(ttft[long]),
        "long_e2e_s": spread(e2e[long]),
        "goodput": float(good.mean()),
        **_promises(trace, classes, ttft, tpot),
        "max_wait_s": _plain(float(np.nanmax(ttft))),
        "plans": dict(outcome.plans),
    }
