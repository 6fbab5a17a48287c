"""A sweep as one self-contained HTML page: each figure against what was varied, a line per policy."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from kvhorizon.report.figures import Picture, colour, layout
from kvhorizon.report.page import document, section
from kvhorizon.whatif.goals import figure
from kvhorizon.whatif.sweep import Axis, Point

SHOWN = (
    ("e2e_mean", "Mean latency", "seconds"),
    ("e2e_p99", "Latency of the slowest 1 %", "seconds"),
    ("ttft_p99", "Time to first token, slowest 1 %", "seconds"),
    ("preemption_frequency", "Evictions per request", "evictions"),
    ("goodput", "Goodput", "share of requests"),
    ("throughput_tok_s", "Throughput", "tokens per second"),
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def picture(axes: Sequence[Axis], points: Sequence[Point], name: str, title: str, unit: str) -> Picture:
    """One figure against the first axis; other axes give lines of their own, dashed apart."""
    first = axes[0].name
    lines: dict[tuple[str, str], list[tuple[Any, float | None]]] = {}
    for point in points:
        rest = ", ".join(f"{key} {value}" for key, value in point.at.items() if key != first)
        for entry in point.results["policies"]:
            lines.setdefault((entry["policy"], rest), []).append((point.at[first], figure(entry, name)))
    policies = list(dict.fromkeys(policy for policy, _ in lines))
    rests = list(dict.fromkeys(rest for _, rest in lines))
    drawn = go.Figure()
    for (policy, rest), values in lines.items():
        drawn.add_scatter(
            x=[x for x, _ in values],
            y=[y for _, y in values],
            mode="lines+markers",
            name=f"{policy} · {rest}" if rest else policy,
            line={"color": colour(policies.index(policy)), "dash": DASHES[rests.index(rest) % len(DASHES)]},
        )
    layout(drawn, first, unit)
    return Picture(name, title, f"{title} against {first}, a line for each policy.", drawn)


def render_sweep(axes: Sequence[Axis], points: Sequence[Point], command: str) -> str:
    """The page (HTML). Every text that came from outside is escaped."""
    results = points[0].results
    varied = "; ".join(f"{axis.name}: {', '.join(str(value) for value in axis.values)}" for axis in axes)
    texts = dict.fromkeys(text for point in points for text in point.results.get("warnings", ()))
    warned = "".join(f'<p class="check differs"><strong>Note.</strong> {escape(text)}.</p>' for text in texts)
    sections = "".join(section(picture(axes, points, *shown)) for shown in SHOWN)
    return document(
        f"Sweep: {results['trace']['name']}",
        f'<p class="soft">{len(points)} points, simulated</p><p class="answer">{escape(varied)}</p>{warned}{sections}'
        f"<section><h2>How it was made</h2><p><code>{escape(command)}</code></p></section>",
    )
