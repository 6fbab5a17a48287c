"""What is in a trace or recording, and how short of KV memory an engine would be that serves it. Nothing is simulated.

A request of p prompt and o output tokens decodes for o steps and holds p + o/2 tokens meanwhile, so that at a time

    c = Σ o (p + o/2) / Σ o                 tokens are held by a running request on average,
    B = pool / c                            requests fit into the pool,
    rate = b / (mean(o) · t(b))             requests a second are served with b = min(B, seats) in the batch,

t(b) being the step's time with b decodes and their share of prefills. Memory runs out at times where what all seats
hold, at SPREADS deviations above its mean, exceeds the pool. Little's law (Little, Operations Research 1961) is all
that is behind it; queues and evictions are what-if's to show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.performance.step_time import step_seconds
from kvhorizon.recording.read import Recording
from kvhorizon.sim.metrics import spread
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.state import EngineFacts

FloatArray = NDArray[np.float64]

WINDOW_S = 60.0  # of the busiest time, at least
STAYS = 2.0  # a queue builds up over so many stays of a running request: a window for the load is no shorter
TOP_TENANTS = 5
SPREADS = 2.0
BUSY, FULL = 0.7, 1.0  # load at the busiest time, from which queues form and memory runs out
GROWTH = 0.2  # share of the KV held that came by decoding; with less, admission by prompt is nearly right
SEEN_SOME, SEEN_MUCH = 0.02, 0.10  # evictions per request


class Verdict(NamedTuple):
    """Whether this product can help; `help` is much, some or little."""

    help: str
    why: str


def inspect(trace: Trace, facts: EngineFacts, recording: Recording | None = None) -> dict[str, Any]:
    """All of it as plain data; `recording` adds what was measured. Times in seconds."""
    pressure = pressure_of(trace, facts)
    recorded = None if recording is None else recorded_of(recording, facts)
    verdict = judge(pressure, recorded)
    return {
        "name": trace.name,
        "requests": len(trace),
        "arrivals": arrivals_of(trace),
        "prompt_tokens": {**spread(trace.prompt_tokens.astype(float)), "max": int(trace.prompt_tokens.max())},
        "output_tokens": {**spread(trace.output_tokens.astype(float)), "max": int(trace.output_tokens.max())},
        "tenants": tenants_of(trace, recording),
        "prefix_reuse": prefix_reuse(trace),
        "pressure": pressure,
        "recorded": recorded,
        "verdict": verdict._asdict(),
    }


def arrivals_of(trace: Trace) -> dict[str, float | None]:
    """Rates; `burstiness` is the deviation of gaps between arrivals over their mean: 1 for a Poisson process."""
    span_s = float(trace.arrival_s[-1])
    gaps = np.diff(trace.arrival_s)
    mean = float(gaps.mean()) if len(gaps) else 0.0
    return {
        "span_s": span_s,
        "rate_per_s": (len(trace) - 1) / span_s if span_s > 0.0 else None,
        "busiest_per_s": float(busiest(trace, np.ones(len(trace)), WINDOW_S)) if span_s > 0.0 else None,
        "burstiness": float(gaps.std() / mean) if mean > 0.0 else None,
    }


def busiest(trace: Trace, weight: FloatArray, window_s: float) -> float:
    """Largest sum of weights (N,) of the requests that arrive within so long a time, per second."""
    window_s = min(window_s, max(float(trace.arrival_s[-1]), 1e-9))
    total = np.concatenate([[0.0], np.cumsum(weight)])
    ends = np.searchsorted(trace.arrival_s, trace.arrival_s + window_s, side="right")
    return float((total[ends] - total[np.arange(len(trace))]).max() / window_s)


def tenants_of(trace: Trace, recording: Recording | None) -> dict[str, Any]:
    """How many, and who asks for most tokens."""
    keys, first, row = np.unique(trace.key, return_index=True, return_inverse=True)
    tokens = np.bincount(row, (trace.prompt_tokens + trace.output_tokens).astype(float))
    names = {int(key): str(key) for key in keys}
    if recording is not None:
        known = dict.fromkeys(tenant for tenant, out in zip(*_named(recording), strict=True) if out)
        names |= dict(enumerate(known))
    top = np.argsort(-tokens, kind="stable")[:TOP_TENANTS]
    return {
        "count": len(first),
        "top": [
            {
                "tenant": names[int(keys[n])],
                "requests": int((row == n).sum()),
                "token_share": float(tokens[n] / tokens.sum()),
            }
            for n in top
        ],
    }


def _named(recording: Recording) -> tuple[list[str], list[bool]]:
    return recording.texts["tenant"], recording.replayable.tolist()


def prefix_reuse(trace: Trace) -> float | None:
    """Share of prompt tokens whose prefix came before, as an endless cache would find it; None without hashes."""
    if trace.prefix_hashes is None:
        return None
    seen: set[int] = set()
    found = 0
    for hashes, prompt in zip(trace.prefix_hashes, trace.prompt_tokens.tolist(), strict=True):
        chain = hashes.tolist()
        length = next((n for n, one in enumerate(chain) if one not in seen), len(chain))
        found += min(length * trace.prefix_tokens, prompt)
        seen.update(chain)
    return found / float(trace.prompt_tokens.sum())


def pressure_of(trace: Trace, facts: EngineFacts) -> dict[str, float | None]:
    """Of an engine with these facts, by the formulas above; loads are None where all requests come at once."""
    prompt, output = trace.prompt_tokens.astype(float), trace.output_tokens.astype(float)
    held = output * (prompt + 0.5 * output)  # token-steps
    context = float(held.sum() / output.sum())
    fits = facts.total_blocks * facts.block_size / context
    square = float((output * (prompt**2 + prompt * output + output**2 / 3.0)).sum() / output.sum())
    seats = float(facts.max_num_seqs)
    full = seats * context + SPREADS * (seats * max(square - context**2, 0.0)) ** 0.5  # tokens of all seats
    batch = max(min(fits, float(facts.max_num_seqs)), 1.0)
    per_step = batch / output.mean()  # requests that begin, and end, in a step
    pairs = per_step * float((0.5 * prompt * (prompt + 1)).mean())
    step_s = float(step_seconds(facts.cost, per_step * prompt.mean(), pairs, batch, batch * context, batch))
    capacity = per_step / step_s
    span_s = float(trace.arrival_s[-1])
    stay_s = float((output * output).sum() / output.sum()) * step_s  # of the requests found running
    share = held / held.mean() if fits < facts.max_num_seqs else output / output.mean()
    return {
        "pool_blocks": facts.total_blocks,
        "seats": facts.max_num_seqs,
        "held_tokens_per_request": context,
        "requests_that_fit": fits,
        "full_seats_share": full / (facts.total_blocks * facts.block_size),
        "growth_share": float((0.5 * output * output).sum() / held.sum()),
        "capacity_per_s": capacity,
        "step_s": step_s,
        "load": (len(trace) - 1) / span_s / capacity if span_s > 0.0 else None,
        "busiest_load": busiest(trace, share, max(WINDOW_S, STAYS * stay_s)) / capacity if span_s > 0.0 else None,
    }


def recorded_of(recording: Recording, facts: EngineFacts) -> dict[str, Any]:
    """What the engine measured; FLOPs by the cost of a token and of a pair of tokens."""
    counts, seconds = recording.counts, recording.seconds
    fed = counts["prompt_tokens"] + np.maximum(counts["output_tokens"] - 1, 0)
    cost = facts.cost
    useful = float((cost.flops_per_token * fed + cost.flops_per_pair * 0.5 * fed * (fed + 1.0)).sum())
    wasted = float(seconds["wasted_flops"].sum())
    reasons, ends = np.unique(np.array(recording.texts["finish"]), return_counts=True)
    return {
        **{name: spread(seconds[name]) for name in ("ttft_s", "tpot_s", "e2e_s")},
        "preemptions": int(counts["preemptions"].sum()),
        "preemption_frequency": float(counts["preemptions"].mean()),
        "recompute_tokens": int(counts["recompute_tokens"].sum()),
        "recompute_fraction": wasted / (wasted + useful) if wasted > 0.0 else 0.0,
        "finish": dict(zip([str(reason) or "unknown" for reason in reasons], ends.tolist(), strict=True)),
        "modes": sorted(set(recording.texts["mode"]) - {""}),
    }


def judge(pressure: dict[str, float | None], recorded: dict[str, Any] | None) -> Verdict:
    """From what was seen, where it was; else from what memory allows."""
    often = recorded["preemption_frequency"] if recorded is not None else 0.0
    if often >= SEEN_SOME:
        lost = f"{100 * recorded['recompute_fraction']:.1f} % of FLOPs computed again" if recorded else ""
        return Verdict(
            "much" if often >= SEEN_MUCH else "some", f"it saw {often:.2f} evictions per request, and {lost}"
        )
    fits, seats, growth = (pressure[name] or 0.0 for name in ("requests_that_fit", "seats", "growth_share"))
    full = pressure["full_seats_share"] or 0.0
    load = pressure["busiest_load"]
    if full <= 1.0:
        return Verdict("little", f"seats ({seats:.0f}), not memory (room for {fits:.0f}), limit the batch")
    if load is not None and load < BUSY:
        return Verdict("little", f"the engine has room: at its busiest it is asked for {100 * load:.0f} % of its rate")
    asked = "all at once" if load is None else f"for {100 * load:.0f} % of its rate at its busiest"
    why = f"memory limits the batch (room for {fits:.0f} of {seats:.0f} seats), and it is asked {asked}"
    if growth < GROWTH:
        return Verdict(
            "some", f"{why}; but outputs are short: only {100 * growth:.0f} % of the KV grows while decoding"
        )
    if load is not None and load < FULL:
        return Verdict("some", f"{why}; {100 * growth:.0f} % of the KV grows while decoding")
    return Verdict("much", f"{why}; {100 * growth:.0f} % of the KV grows while decoding")
