"""A trace or recording as one self-contained HTML page: when requests come, how long they are, whose, and their KV."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kvhorizon.report.figures import POINTS, RED, Picture, colour, layout
from kvhorizon.report.page import document, section
from kvhorizon.sim.workload.demand import kv_demand
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.state import EngineFacts

MINUTE_S, SHORTEST_S = 60.0, 1.0
FEWEST_BARS, MOST_BARS = 20, 600
LENGTH_BARS = 40
LONGEST_NAME = 40


def arrivals(trace: Trace) -> Picture:
    """Requests per minute; short traces are counted in shorter spans, long ones in longer."""
    span_s = max(float(trace.arrival_s[-1]), SHORTEST_S)
    bar_s = float(np.clip(MINUTE_S, span_s / MOST_BARS, span_s / FEWEST_BARS))
    last = np.ceil(span_s / bar_s - 1e-9) - 1
    count = np.bincount(np.minimum(trace.arrival_s // bar_s, last).astype(np.int64))
    figure = go.Figure()
    figure.add_bar(
        x=(np.arange(len(count)) + 0.5) * bar_s / MINUTE_S,
        y=count * MINUTE_S / bar_s,
        name="arrivals",
        marker={"color": colour(3)},
    )
    layout(figure, "minutes since the first", "requests per minute")
    figure.update_layout(bargap=0.05, showlegend=False)
    return Picture("arrivals", "Arrivals", f"Requests per minute, counted over {bar_s:,.3g} s each.", figure)


def lengths(trace: Trace) -> Picture:
    """How long prompts and outputs are."""
    figure = go.Figure()
    most = float(max(trace.prompt_tokens.max(), trace.output_tokens.max()))
    edges = np.unique(np.floor(np.geomspace(1.0, most + 1.0, LENGTH_BARS + 1)))
    table = []
    for index, (name, tokens) in enumerate((("prompt", trace.prompt_tokens), ("output", trace.output_tokens))):
        count, _ = np.histogram(tokens, edges)
        figure.add_scatter(
            x=edges,
            y=np.round(np.append(count, 0) / len(tokens), 5),
            mode="lines",
            name=name,
            fill="tozeroy",
            line={"color": colour(3 - index), "shape": "hv", "width": 1.5},
        )
        table.append((name, *(f"{value:,.0f}" for value in np.percentile(tokens, [10, 50, 90, 99, 100]))))
    layout(figure, "tokens (logarithmic)", "share of requests", type="log")
    head = ("tokens", "p10", "p50", "p90", "p99", "longest")
    return Picture("lengths", "Lengths", "Prompt and output tokens of a request.", figure, head, table)


def tenants(found: dict[str, Any]) -> Picture | None:
    """Who asks for most; None where there is one tenant only. Names from outside are text, whatever is in them."""
    if found["tenants"]["count"] < 2:
        return None
    top = found["tenants"]["top"]
    names = [escape(str(one["tenant"])[:LONGEST_NAME] or "(none)", quote=False) for one in top]
    tokens, requests = [one["token_share"] for one in top], [one["requests"] / found["requests"] for one in top]
    figure = go.Figure()
    for index, (name, shares) in enumerate((("of tokens", tokens), ("of requests", requests))):
        figure.add_bar(x=names, y=np.round(shares, 4), name=name, marker={"color": colour(3 - index)})
    layout(figure, "tenant", "share", type="category")
    figure.update_yaxes(tickformat=".0%")
    says = f"The {len(top)} of {found['tenants']['count']:,} tenants who ask for most tokens."
    rows = zip(names, top, tokens, strict=True)
    table = [(name, f"{one['requests']:,}", f"{100 * share:.1f} %") for name, one, share in rows]
    return Picture("tenants", "Tenants", says, figure, ("tenant", "requests", "share of tokens"), table)


def demand(trace: Trace, facts: EngineFacts, step_s: float) -> Picture:
    """KV demand over time against the pool."""
    times, tokens = kv_demand(trace, step_s, POINTS)
    blocks = tokens / facts.block_size
    figure = go.Figure()
    figure.add_scatter(
        x=np.round(times, 3),
        y=np.round(blocks, 1),
        mode="lines",
        name="demand",
        fill="tozeroy",
        line={"color": colour(3), "width": 1.5},
    )
    pool = {"color": RED, "dash": "dash"}
    figure.add_hline(y=facts.total_blocks, line=pool, annotation={"text": "the engine's pool"})
    layout(figure, "seconds since the first arrival", "KV blocks")
    figure.update_layout(showlegend=False)
    over = 100.0 * float((blocks > facts.total_blocks).mean())
    says = (
        f"KV blocks if every request began when it came and got a token each {1e3 * step_s:,.1f} ms, as on this engine "
        f"with as many requests as it has room for. The pool has {facts.total_blocks:,}; demand is above that for "
        f"{over:.0f} % of the time: then requests wait or are evicted. Nothing is simulated here; what-if shows what "
        "policies do about it."
    )
    return Picture("demand", "KV demand against the pool", says, figure)


def render_inspection(
    found: dict[str, Any], lines: Sequence[tuple[str, str]], trace: Trace, facts: EngineFacts, command: str
) -> str:
    """The page (HTML); `found` as of `whatif.inspection`, `lines` its words. Every text from outside is escaped."""
    drawn = (arrivals(trace), lengths(trace), tenants(found), demand(trace, facts, found["pressure"]["step_s"]))
    sections = "".join(section(picture) for picture in drawn if picture is not None)
    verdict = found["verdict"]
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in lines)
    made = f"<dt>command</dt><dd><code>{escape(command)}</code></dd>"
    return document(
        f"Inside: {found['name']}",
        f'<p class="soft">{escape(found["engine"])}</p>'
        f'<section class="answer" aria-label="The answer"><p class="headline">kvhorizon can help '
        f"{escape(verdict['help'])}: {escape(verdict['why'])}.</p></section>{sections}"
        f'<section aria-labelledby="facts"><h2 id="facts">In numbers</h2><dl>{entries}{made}</dl></section>',
    )
