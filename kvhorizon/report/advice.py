"""What to switch on, what it buys, what it costs, and how sure that is: the first thing on the page.

Of the policies that can be switched on, the one with the least mean latency is advised whose slowest hundredth takes
at most TAIL times as long as first-come-first-served. How sure: the interval of the ratio of mean latencies over blocks
of requests that are drawn again (a paired block bootstrap: Künsch, Annals of Statistics 1989), and whether the
simulated engine does as the recorded one did, where there was one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.whatif.question import Answer

Row = dict[str, Any]
TAIL = 1.10
FEW = 0.005  # evictions per request, below which memory is not what limits
SMALL = 0.02  # relative change that is not worth a switch
BLOCKS, RESAMPLES = 200, 1000
SEED = 0


@dataclass(frozen=True, slots=True)
class Advice:
    """In sentences; `policy` is None where nothing is to be switched on."""

    policy: str | None
    headline: str
    switch: str | None  # the command
    buys: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    sure: tuple[str, ...] = ()


def advise(answer: Answer) -> Advice:
    """For whoever runs the engine."""
    rows = answer.results["policies"]
    base = next((row for row in rows if row["policy"] == "fcfs"), None)
    if base is None:
        return Advice(None, "Add the policy fcfs to compare against first-come-first-served.", None)
    rest = [row for row in rows if row is not base and switch_of(row["policy"]) is not None]
    if base["preemption_frequency"] < FEW:
        told = f"Nothing to switch on: this load hardly evicts anyone ({base['preemptions']} evictions)."
        why = "Memory is not what limits this engine at this load, and there is little to win."
        return Advice(None, told, None, (why,), _harm(rest, base), _basis(answer))
    fair = [row for row in rest if row["e2e_s"]["p99"] <= TAIL * base["e2e_s"]["p99"]] or rest
    best = min(fair, key=lambda row: row["e2e_s"]["mean"], default=None)
    if best is None or _change(best, base, "e2e_s", "mean") > -SMALL:
        told = "Nothing to switch on: no policy that was asked for makes requests noticeably faster here."
        return Advice(None, told, None, costs=_harm(rest, base), sure=_basis(answer))
    mean = _change(best, base, "e2e_s", "mean")
    low, high = _interval(answer, best["policy"])
    told = f"{best['policy']} makes the mean request {-100.0 * mean:.0f} % faster than first-come-first-served."
    sure = (
        f"Over other requests like these the change of mean latency is {_percent(low)} to "
        f"{_percent(high)} (95 % of resampled blocks).",
        *_basis(answer),
    )
    buys, costs = _sides(best, base)
    return Advice(best["policy"], told, switch_of(best["policy"]), buys, costs, sure)


def _harm(rows: list[Row], base: Row) -> tuple[str, ...]:
    """Policies that would do worse than first-come-first-served, and by how much; said where nothing is advised."""
    found = []
    for row in rows:
        latency = _change(row, base, "e2e_s", "mean")
        throughput = _change(row, base, "throughput_tok_s")
        if latency >= SMALL or throughput <= -SMALL:
            told = f"mean latency {_percent(latency)}, tokens per second {_percent(throughput)}"
            found.append(f"{row['policy']} would do harm here: {told}")
    return tuple(found)


def switch_of(policy: str) -> str | None:
    """The command that turns a policy on, None where vLLM has no such switch."""
    head, _, knob = policy.partition("/")
    if head in ("kvhorizon", "kvhorizon:greedy"):
        settings = [f"KVHORIZON_KNOB={knob}"] if knob else []
        settings += ["KVHORIZON_LOCAL_ONLY=true"] if head.endswith("greedy") else []
        return " ".join([*settings, "vllm serve MODEL --scheduler-cls kvhorizon.adapter.make_scheduler"])
    if head.startswith("watermark:"):
        return f"vllm serve MODEL --watermark {head.removeprefix('watermark:')}"
    return None


def _percent(change: float) -> str:
    """With its sign."""
    return f"{100.0 * change:+.0f} %".replace("-", "−")


def _change(row: Row, base: Row, *path: str) -> float:
    ours: Any = row
    theirs: Any = base
    for key in path:
        ours, theirs = ours[key], theirs[key]
    return float(ours / theirs - 1.0) if theirs else 0.0


def _sides(best: Row, base: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What gets better and what gets worse, of what users feel and what machines cost."""
    measures = (
        ("evictions", ("preemptions",), True),
        ("mean time to first token", ("ttft_s", "mean"), True),
        ("time to first token of the slowest 1 %", ("ttft_s", "p99"), True),
        ("latency of the slowest 1 %", ("e2e_s", "p99"), True),
        ("mean time per output token", ("tpot_s", "mean"), True),
        ("first token of the longest tenth, slowest 1 %", ("long_ttft_s", "p99"), True),
        ("tokens per second", ("throughput_tok_s",), False),
    )
    buys: list[str] = []
    costs: list[str] = []
    for name, path, less_is_better in measures:
        change = _change(best, base, *path)
        if abs(change) >= SMALL:
            (buys if (change < 0.0) == less_is_better else costs).append(f"{name} {_percent(change)}")
    points = 100.0 * (best["goodput"] - base["goodput"])
    if abs(points) >= 1.0:
        (buys if points > 0.0 else costs).append(
            f"requests within their targets {points:+.0f} points".replace("-", "−")
        )
    return tuple(buys), tuple(costs)


def _basis(answer: Answer) -> tuple[str, ...]:
    """What the figures rest on."""
    results = answer.results
    checked = results.get("self_check")
    told = checked["says"] if checked else "Simulated; no recorded engine was at hand to compare with."
    forecast = f"Output lengths were forecast by {results['forecast']}"
    known = forecast.startswith("Output lengths were forecast by history")
    return told, forecast + ("." if known else ", which stands for a predictor that you may not have.")


def _interval(answer: Answer, policy: str) -> tuple[float, float]:
    """95 % interval of the change of mean latency of `policy` to fcfs."""
    names = [row["policy"] for row in answer.results["policies"]]
    ours, theirs = (_by_block(answer, names.index(name)) for name in (policy, "fcfs"))
    draws = np.random.default_rng(SEED).integers(0, len(ours), (RESAMPLES, len(ours)))
    change = ours[draws].sum(axis=1) / theirs[draws].sum(axis=1) - 1.0
    low, high = np.percentile(change, [2.5, 97.5])
    return float(low), float(high)


def _by_block(answer: Answer, index: int) -> NDArray[np.float64]:
    """Summed latency of consecutive arrivals, (BLOCKS,) or fewer."""
    latency_s = np.nan_to_num(answer.outcomes[index].finish_s - answer.trace.arrival_s)
    count = min(BLOCKS, len(latency_s))
    return np.array([part.sum() for part in np.array_split(latency_s, count)])
