"""A chosen minute of one policy: memory, queue, and each eviction with why it happened. `page.js` moves through it."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import numpy as np

from kvhorizon.report.figures import unlisted_from_s
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.registry import parts_of
from kvhorizon.whatif.question import Answer

WINDOWS = 240  # at most, over the whole replay; at least a minute each
WINDOW_S = 60.0
MOST_EVICTIONS = 4000  # of each policy, evenly taken where there are more
MOST_SAMPLES = 2400
VICTIMS = {  # how a policy comes to its victim, by the beginning of its name
    "fcfs": "the request admitted last gives way",
    "watermark": "the request admitted last gives way",
    "priority": "the request of lowest priority that came last gives way",
    "kvhorizon": "the request whose remaining work costs most memory for what it would take to compute again gives way",
    "lcf": "the request with the fewest computed tokens gives way",
}


def minute(answer: Answer) -> str:
    """The section (HTML), with its data as JSON."""
    rows = answer.results["policies"]
    span_s = max((outcome.makespan_s for outcome in answer.outcomes), default=0.0)
    window_s = max(WINDOW_S, span_s / WINDOWS)
    windows = max(1, int(np.ceil(span_s / window_s)))
    data = {
        "window_s": round(window_s, 3),
        "windows": windows,
        "blocks": answer.facts.total_blocks,
        "policies": [_of(answer, row, outcome) for row, outcome in zip(rows, answer.outcomes, strict=True)],
    }
    choices = "".join(f'<option value="{n}">{escape(row["policy"])}</option>' for n, row in enumerate(rows))
    busiest = _busiest(answer.outcomes, window_s)
    what = "A minute" if window_s == WINDOW_S else f"{window_s:,.0f} seconds"
    return (
        f'<section aria-labelledby="minute-title"><h2 id="minute-title">{what} up close</h2>'
        '<p class="soft">Choose a policy and move through time: by mouse, by touch, or with the arrow keys.</p>'
        '<div class="controls"><label for="minute-policy">policy</label>'
        f'<select id="minute-policy">{choices}</select>'
        '<button type="button" id="minute-back" aria-label="earlier">&#9664;</button>'
        f'<input type="range" id="minute-at" min="0" max="{windows - 1}" value="{busiest}" '
        'aria-label="which minute">'
        '<button type="button" id="minute-on" aria-label="later">&#9654;</button>'
        '<output id="minute-says" for="minute-at minute-policy" aria-live="polite"></output></div>'
        '<div class="plot" id="minute-plot" role="img" aria-label="KV blocks, running and waiting requests"></div>'
        '<div class="scroll events" tabindex="0" role="region" aria-label="What happened and why">'
        '<table id="minute-events"><thead><tr><th scope="col">at</th><th scope="col">request</th>'
        '<th scope="col">what</th><th scope="col">why</th></tr></thead><tbody></tbody></table></div>'
        f'<script type="application/json" id="minute-data">{_json(data)}</script></section>'
    )


def _json(data: Any) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _busiest(outcomes: list[Outcome], window_s: float) -> int:
    """The window with most evictions under the first policy."""
    if not outcomes or not len(outcomes[0].preempted_at):
        return 0
    return int(np.bincount((outcomes[0].preempted_at[:, 0] // window_s).astype(np.int64)).argmax())


def _of(answer: Answer, row: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """One policy's samples and evictions, as columns."""
    line = outcome.timeline[_evenly(len(outcome.timeline), MOST_SAMPLES)]
    chosen = _evenly(len(outcome.preempted_at), MOST_EVICTIONS)
    events = outcome.preempted_at[chosen]
    who = events[:, 1].astype(np.int64)
    trace = answer.trace
    head = parts_of(row["policy"]).name
    return {
        "policy": row["policy"],
        "rule": VICTIMS.get(head, "its rule chose this request to give way"),
        "share": len(chosen) / max(len(outcome.preempted_at), 1),
        "known_until": unlisted_from_s(outcome),
        "at": np.round(line[:, 0], 2).tolist(),
        "used": line[:, 1].astype(int).tolist(),
        "running": line[:, 2].astype(int).tolist(),
        "waiting": line[:, 3].astype(int).tolist(),
        "evicted_at": np.round(events[:, 0], 2).tolist(),
        "request": who.tolist(),
        "prompt": trace.prompt_tokens[who].tolist(),
        "output": trace.output_tokens[who].tolist(),
        "times": outcome.preemptions[who].tolist(),
        "again": outcome.recompute_tokens[who].tolist(),
    }


def _evenly(size: int, most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return (
        np.unique(np.linspace(0, max(size - 1, 0), min(size, most)).astype(np.int64)) if size else np.zeros(0, np.int64)
    )
