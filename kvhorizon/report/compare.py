"""Figures that set the policies side by side: mean against tail, the bound, who waits, where engine time went."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from kvhorizon.report.figures import RED, FloatArray, Picture, colour, layout
from kvhorizon.whatif.question import Answer

DECILES = 10
MOST_TENANTS = 8
BARS = ("#2f9e77", "#d1495b", "#b8c0c8")  # of useful, lost and idle time
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "pentagon", "hexagon")


def pareto(answer: Answer) -> Picture:
    """Mean latency against that of the slowest hundredth; nothing can lie left of the bound."""
    rows = answer.results["policies"]
    figure = go.Figure()
    for index, row in enumerate(rows):
        figure.add_scatter(
            x=[row["e2e_s"]["mean"]],
            y=[row["e2e_s"]["p99"]],
            mode="markers",
            name=row["policy"],
            marker={"color": colour(index), "size": 15, "symbol": SYMBOLS[index % len(SYMBOLS)]},
            hovertemplate="%{fullData.name}<br>mean %{x:.2f} s, p99 %{y:.1f} s<extra></extra>",
        )
    layout(figure, "mean latency [s]", "latency of the slowest 1 % [s]")
    figure.update_xaxes(rangemode="tozero")
    bound = (answer.results.get("hindsight_bound") or {}).get("e2e_mean_s")
    if bound:
        label = "no schedule is left of this"
        figure.add_vline(x=bound, line={"color": RED, "dash": "dash"}, annotation={"text": label})
    says = "Towards the lower left is better for everyone; to the left and up, the mean gains what the slowest pay."
    table = [
        (row["policy"], _two(row["e2e_s"]["mean"]), _two(row["e2e_s"]["p99"]), _two(row.get("over_bound")))
        for row in rows
    ]
    return Picture(
        "pareto", "Mean against tail", says, figure, ("policy", "mean [s]", "p99 [s]", "mean / bound"), table
    )


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _means(values: FloatArray, group: NDArray[np.int64], size: int) -> FloatArray:
    """Mean of the finite values (N,) of each group, (size,); nan where there are none."""
    good = np.isfinite(values)
    count = np.bincount(group[good], minlength=size)
    total = np.bincount(group[good], values[good], minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def by_length(answer: Answer) -> Picture:
    """Mean wait for the first token by decile of output length."""
    output = answer.trace.output_tokens
    order = np.argsort(output, kind="stable")
    decile = np.empty(len(output), np.int64)
    decile[order] = np.arange(len(output)) * DECILES // len(output)
    labels = [_span(output[decile == d]) for d in range(DECILES)]
    title = "Who waits, by length"
    says = "Mean wait for the first token, from the tenth of requests with the shortest outputs to the longest."
    return _waits(answer, "lengths", title, says, "output tokens", decile, labels)


def _span(lengths: NDArray[np.int64]) -> str:
    return f"{lengths.min():,}–{lengths.max():,}" if len(lengths) else "–"


def by_tenant(answer: Answer) -> Picture | None:
    """Mean wait for the first token of those who ask for most; None where there is one tenant only."""
    trace = answer.trace
    keys, group = np.unique(trace.key, return_inverse=True)
    if len(keys) < 2:
        return None
    tokens = np.bincount(group, (trace.prompt_tokens + trace.output_tokens).astype(float))
    top = np.argsort(-tokens, kind="stable")[:MOST_TENANTS]
    place = np.full(len(keys), len(top))
    place[top] = np.arange(len(top))
    labels = [_tenant(answer, int(keys[n])) for n in top]
    others = len(keys) > len(top)
    says = "Mean wait for the first token of each tenant, those who ask for most tokens first."
    return _waits(
        answer, "tenants", "Who waits, by tenant", says, "tenant", place[group], [*labels, *["all others"] * others]
    )


def _tenant(answer: Answer, key: int) -> str:
    """A name from outside is text, whatever is in it: figures take some tags for markup."""
    names = answer.trace.key_names
    name = names[key] if 0 <= key < len(names) else f"tenant {key}"
    return escape(name[:40] or "(none)", quote=False)


def _waits(
    answer: Answer, anchor: str, title: str, says: str, unit: str, group: NDArray[np.int64], labels: list[str]
) -> Picture:
    figure = go.Figure()
    columns = []
    for index, (row, outcome) in enumerate(zip(answer.results["policies"], answer.outcomes, strict=True)):
        means = _means(outcome.first_token_s - answer.trace.arrival_s, group, len(labels))
        columns.append(means)
        figure.add_scatter(
            x=labels,
            y=np.round(means, 4),
            mode="lines+markers" if anchor == "lengths" else "markers",
            name=row["policy"],
            line={"color": colour(index), "width": 2},
            marker={"color": colour(index), "size": 9, "symbol": SYMBOLS[index % len(SYMBOLS)]},
        )
    layout(figure, unit, "seconds", type="category")
    head = (unit, *(row["policy"] for row in answer.results["policies"]))
    table = [(label, *(_two(float(column[n])) for column in columns)) for n, label in enumerate(labels)]
    return Picture(anchor, title, says, figure, head, table)


def engine_time(answer: Answer) -> Picture:
    """Where the engine's time went until the last request was done, as shares of first-come-first-served's."""
    rows = answer.results["policies"]
    parts: list[tuple[str, list[float]]] = [
        ("useful work", [_busy_s(row) - row["recompute_gpu_s"] for row in rows]),
        ("computing again what was evicted", [row["recompute_gpu_s"] for row in rows]),
        ("idle", [row["makespan_s"] - _busy_s(row) for row in rows]),
    ]
    figure = go.Figure()
    for (name, seconds), tint in zip(parts, BARS, strict=True):
        figure.add_bar(
            y=[row["policy"] for row in rows],
            x=[round(max(one, 0.0), 3) for one in seconds],
            name=name,
            orientation="h",
            marker={"color": tint},
        )
    layout(figure, "seconds until the last request was done", "")
    figure.update_layout(barmode="stack", height=120 + 46 * len(rows), margin={"l": 150})
    figure.update_yaxes(autorange="reversed", rangemode="normal")
    says = "Shorter bars are done sooner. Idle time is time in which no request was there."
    table = [(row["policy"], *(f"{seconds[n]:,.1f}" for _, seconds in parts)) for n, row in enumerate(rows)]
    return Picture("engine", "Where engine time went", says, figure, ("policy", *(name for name, _ in parts)), table)


def _busy_s(row: dict[str, Any]) -> float:
    return float(row["gpu_utilization"] * row["makespan_s"])
