"""What a closed loop meant to its clients and to the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.live.defaults._defaults_clients import Loop, Seen
from experiments.live.serving._live_measure import BEGIN, OWN
from kvhorizon.sim.metrics import spread

Row = dict[str, Any]
COUNTS = ("preemptions", "recompute_tokens", "errors")


def measured(loop: Loop, before: Row, after: Row, cpu_s: float) -> Row:
    """One load on a server: what its clients saw, and the probe's reports before and after it.

    Throughput and times are those while every client had something to do: a request counts by the share of its answers
    that had come by then, and its times count if it was sent by then. `prefill_tokens` is what was computed, hits left
    out and recomputation included; it, `prompt_tokens` and costs (engine's own time, its steps' work, processor time)
    are per request, since a faster contender serves more. A first turn is that of its session.
    """
    steps = np.array(after["steps"][len(before.get("steps", [])) :])
    outputs = sum(one.ask.output_tokens for one in loop.seen)
    seen = [one for one in loop.seen if one.sent_s <= loop.full_s]
    return {
        "requests": len(loop.seen),
        **{name: after[name] - before.get(name, 0) for name in COUNTS},
        "throughput_req_s": sum(_share(one, loop.full_s) for one in seen) / loop.full_s,
        "full_s": loop.full_s,
        "makespan_s": max(one.answer_s[-1] for one in loop.seen),
        **_times(seen),
        "prefill_tokens": float(steps[:, 0].sum() - (outputs - len(loop.seen))) / len(loop.seen),
        "prompt_tokens": sum(len(one.ask.prompt) for one in loop.seen) / len(loop.seen),
        "by_kind": _kinds(seen),
        "steps": len(steps),
        "longest_step_s": float(steps[:, OWN].max()),
        "engine_s": float(steps[:, OWN].sum()) / len(loop.seen),
        "work": [len(steps), *steps[:, :BEGIN].sum(axis=0).tolist()],
        "cpu_s": cpu_s / len(loop.seen),
        **{name: _gain(before, after, name) for name in ("ladder", "plans")},
    }


def _share(one: Seen, until_s: float) -> float:
    return sum(at_s <= until_s for at_s in one.answer_s) / len(one.answer_s)


def _times(seen: list[Seen]) -> Row:
    """Distributions of time to first token, per output token and to the last token."""
    sent, first, last = (
        np.array(column)
        for column in zip(*((one.sent_s, one.answer_s[0], one.answer_s[-1]) for one in seen), strict=True)
    )
    output = np.array([one.ask.output_tokens for one in seen])
    tpot = (last - first)[output > 1] / (output - 1)[output > 1]
    return {"ttft_s": spread(first - sent), "tpot_s": spread(tpot), "e2e_s": spread(last - sent)}


def _kinds(seen: list[Seen]) -> dict[str, Row]:
    """Number and mean time to first token [s] of first and of later turns, and of each kind of request."""
    groups: dict[str, list[float]] = {}
    for one in seen:
        for name in ("first turn" if one.ask.turn == 0 else "later turn", one.ask.kind):
            groups.setdefault(name, []).append(one.answer_s[0] - one.sent_s)
    return {name: {"requests": len(some), "ttft_mean_s": float(np.mean(some))} for name, some in sorted(groups.items())}


def _gain(before: Row, after: Row, name: str) -> dict[str, int]:
    return {key: count - before.get(name, {}).get(key, 0) for key, count in after[name].items()}
