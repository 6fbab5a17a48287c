"""The report's figures, as plotly figures; each is also described in words for readers who do not see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from kvhorizon.sim.engine.arrays import PREEMPTION_ROWS
from kvhorizon.sim.outcome import Outcome
from kvhorizon.whatif.question import Answer

FloatArray = NDArray[np.float64]
POINTS = 600  # per line
ROW_PIXELS = 130  # height of one policy's occupancy
GREY, BLUE, RED = "#8a94a0", "#0b6bcb", "#c2410c"
COLOURS = (GREY, "#d98e04", "#2f9e77", BLUE, "#a55bc4", RED, "#0e7490", "#65a30d")


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure with what it shows, in a sentence."""

    anchor: str
    title: str
    says: str
    figure: go.Figure
    head: tuple[str, ...] = ()  # of its numbers as a table, where they are few
    table: Sequence[tuple[str, ...]] = ()


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _thin(rows: FloatArray, points: int = POINTS) -> FloatArray:
    """At most `points` rows, evenly taken, the last among them."""
    if len(rows) <= points:
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, points).astype(np.int64))]


def layout(figure: go.Figure, x: str, y: str, **axis: object) -> None:
    """The house's look: no background of its own, quiet grid, axes named."""
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#6e7781", "size": 13},
        margin={"l": 60, "r": 10, "t": 10, "b": 50},
        legend={"orientation": "h", "y": 1.12, "x": 0},
        hovermode="closest",
    )
    figure.update_xaxes(title=x, gridcolor="rgba(128,128,128,.25)", zeroline=False, **axis)
    figure.update_yaxes(title=y, gridcolor="rgba(128,128,128,.25)", zeroline=False, rangemode="tozero")


def unlisted_from_s(outcome: Outcome) -> float | None:
    """When a replay's list of evictions was full; None where it holds them all."""
    if len(outcome.preempted_at) >= int(outcome.preemptions.sum()):
        return None
    return round(float(outcome.preempted_at[-1, 0]), 2)


def occupancy(answer: Answer) -> Picture:
    """KV blocks in use over time, one row per policy on a common axis, evictions as ticks above."""
    rows = answer.results["policies"]
    figure = make_subplots(
        rows=len(rows), cols=1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=[row["policy"] for row in rows]
    )
    total = answer.facts.total_blocks
    for index, (row, outcome) in enumerate(zip(rows, answer.outcomes, strict=True)):
        line = _thin(outcome.timeline)
        figure.add_scatter(
            x=np.round(line[:, 0], 3),
            y=np.round(line[:, 1] / total, 4),
            mode="lines",
            name=row["policy"],
            fill="tozeroy",
            line={"color": colour(index), "width": 1},
            row=index + 1,
            col=1,
        )
        marks = _thin(outcome.preempted_at, 400)
        figure.add_scatter(
            x=np.round(marks[:, 0], 3),
            y=np.full(len(marks), 1.12),
            mode="markers",
            name="eviction",
            marker={"color": RED, "symbol": "line-ns-open", "size": 7},
            row=index + 1,
            col=1,
        )
    layout(figure, "", "")
    figure.update_layout(height=60 + ROW_PIXELS * len(rows), showlegend=False, margin={"t": 30})
    figure.update_yaxes(range=[0, 1.25], tickvals=[0, 0.5, 1], tickformat=".0%")
    figure.update_xaxes(title="virtual time [s]", row=len(rows), col=1)
    says = "Share of KV blocks in use. Red ticks above are evictions; what they threw away is computed again."
    if any(unlisted_from_s(outcome) is not None for outcome in answer.outcomes):
        says += f" Only the first {PREEMPTION_ROWS:,} evictions of a policy are marked."
    return Picture("occupancy", "KV cache over time", says, figure)


def _distribution(answer: Answer, anchor: str, title: str, says: str, values: list[FloatArray]) -> Picture:
    figure = go.Figure()
    for index, (row, seconds) in enumerate(zip(answer.results["policies"], values, strict=True)):
        ordered = np.sort(seconds[np.isfinite(seconds)])
        if not len(ordered):
            continue
        share = (np.arange(len(ordered)) + 1) / len(ordered)
        line = _thin(np.stack([np.maximum(ordered, 1e-4), share], axis=1))
        figure.add_scatter(
            x=np.round(line[:, 0], 5),
            y=np.round(line[:, 1], 4),
            mode="lines",
            name=row["policy"],
            line={"color": colour(index), "width": 1.5},
        )
    layout(figure, "seconds (logarithmic)", "share of requests", type="log")
    return Picture(anchor, title, says, figure)


def distributions(answer: Answer) -> list[Picture]:
    """Cumulative distributions of time to first token, per output token and end to end."""
    arrival, output = answer.trace.arrival_s, answer.trace.output_tokens
    several = output > 1
    first = [outcome.first_token_s - arrival for outcome in answer.outcomes]
    each = [(outcome.finish_s - outcome.first_token_s)[several] / (output[several] - 1) for outcome in answer.outcomes]
    end = [outcome.finish_s - arrival for outcome in answer.outcomes]
    further_left = "Further left is better; the right end of a line is its slowest request."
    return [
        _distribution(answer, "ttft", "Time to first token", further_left, first),
        _distribution(answer, "tpot", "Time per output token", further_left, each),
        _distribution(answer, "e2e", "End-to-end latency", further_left, end),
    ]
