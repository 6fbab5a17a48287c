"""What a failure in mid-run cost: requests under way with it and without, and the differences as a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from kvhorizon.report.figures import POINTS, FloatArray, Picture, colour, layout
from kvhorizon.sim.outcome import Outcome
from kvhorizon.whatif.question import Answer

HEAD = (
    "policy",
    "requests interrupted",
    "KV tokens lost",
    "tokens recomputed",
    "TTFT mean [s]",
    "TTFT p99 [s]",
    "latency mean [s]",
    "latency p99 [s]",
    "caught up after [s]",
)


def failure_cost(answer: Answer) -> Picture | None:
    """Over time, how many have asked and are not done; dotted without the failure. None where none was asked for."""
    failure = answer.results.get("failure")
    if not failure or not answer.calm:
        return None
    figure = go.Figure()
    ends_s = max(float(np.nanmax(one.finish_s, initial=0.0)) for one in (*answer.outcomes, *answer.calm))
    times = np.linspace(0.0, ends_s, POINTS)
    for index, row in enumerate(answer.results["policies"]):
        for outcome, dash in ((answer.outcomes[index], "solid"), (answer.calm[index], "dot")):
            figure.add_scatter(
                x=np.round(times, 3),
                y=under_way(answer.trace.arrival_s, outcome, times),
                mode="lines",
                name=row["policy"],
                legendgroup=row["policy"],
                showlegend=dash == "solid",
                line={"color": colour(index), "width": 1.5, "dash": dash},
            )
    back_s = failure["at_s"] + failure["down_for_s"]
    figure.add_vrect(x0=failure["at_s"], x1=back_s, fillcolor="rgba(194,65,12,.18)", line_width=0)
    layout(figure, "virtual time [s]", "requests under way")
    says = (
        f"An engine fails at {failure['at_s']:g} s and is away for {failure['down_for_s']:g} s (shaded). Requests that "
        "have come and are not done, dotted without the failure. In the table, seconds and tokens are with the failure "
        "less without it; a policy has caught up when as many requests are done as would have been."
    )
    table = [_line(row) for row in answer.results["policies"]]
    return Picture("failure", "What the failure cost", says, figure, HEAD, table)


def under_way(arrival_s: FloatArray, outcome: Outcome, times: FloatArray) -> NDArray[np.int64]:
    """Requests that have come and are not done at each time; who gave up is left out."""
    served = np.isfinite(outcome.finish_s)
    come = np.searchsorted(np.sort(arrival_s[served]), times, side="right")
    done = np.searchsorted(np.sort(outcome.finish_s[served]), times, side="right")
    return (come - done).astype(np.int64)


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    cost = row["failure"]
    differences = ("ttft_mean_more_s", "ttft_p99_more_s", "e2e_mean_more_s", "e2e_p99_more_s")
    return (
        row["policy"],
        f"{cost['requests_interrupted']:,}",
        f"{cost['kv_tokens_lost']:,}",
        f"{cost['recompute_tokens_more']:+,}",
        *("–" if cost[name] is None else f"{cost[name]:+,.2f}" for name in differences),
        "at the end" if cost["caught_up_s"] is None else f"{cost['caught_up_s']:,.1f}",
    )
