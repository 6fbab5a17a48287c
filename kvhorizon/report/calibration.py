"""The picture of the forecast's calibration in a what-if's report; `docs/how-it-works/forecast-quality.md` says how to
read it."""

from __future__ import annotations

from html import escape

import numpy as np
from plotly.subplots import make_subplots

from kvhorizon.report.figures import BLUE, GREY, RED, Picture, layout
from kvhorizon.report.reliability import CHANCES, HORIZON_TOKENS, Reliability, reliability
from kvhorizon.sim.setup import Setup
from kvhorizon.whatif.question import Answer

LEAST_BATCHES = 50  # before shares of 1 % mean anything
LEVELS = np.linspace(0.0, 1.0, 41)


def calibration(answer: Answer) -> list[Picture]:
    """The picture, where the forecast promises anything that can be checked."""
    results = answer.results
    found = reliability(answer.trace, results["forecast"], results["seed"], Setup(answer.trace, answer.facts))
    return [] if found is None else [_picture(results["forecast"], found)]


def _picture(forecast: str, found: Reliability) -> Picture:
    with_batches = found.batches >= LEAST_BATCHES
    titles = ["place in its forecast", "promised against seen", *(["batches beyond"] if with_batches else [])]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles)
    tenths = np.histogram(found.pit, bins=10, range=(0.0, 1.0))[0] / len(found.pit)
    figure.add_bar(x=0.05 + np.arange(10) / 10, y=np.round(tenths, 4), marker={"color": BLUE}, row=1, col=1)
    figure.add_hline(y=0.1, line={"color": GREY, "dash": "dot", "width": 1}, row=1, col=1)
    seen = np.searchsorted(np.sort(found.pit), LEVELS, side="right") / len(found.pit)
    for y, colour, dash in ((LEVELS, GREY, "dot"), (seen, BLUE, "solid")):
        line = {"color": colour, "dash": dash, "width": 1.5}
        figure.add_scatter(x=LEVELS, y=np.round(y, 4), mode="lines", line=line, row=1, col=2)
    if with_batches:
        names = [f"{100 * chance:g} %" for chance in CHANCES]
        for values, colour in ((np.array(CHANCES), GREY), (found.exceeded, RED)):
            figure.add_bar(x=names, y=np.round(values, 4), marker={"color": colour}, row=1, col=3)
    layout(figure, "", "")
    figure.update_layout(showlegend=False, barmode="group", margin={"t": 30})
    return Picture("calibration", "Did the forecast keep its promises?", _says(forecast, found, with_batches), figure)


def _says(forecast: str, found: Reliability, with_batches: bool) -> str:
    """In words what the picture shows."""
    bands = ", ".join(f"{100 * share:.0f} % bands held {100 * found.coverage(share):.0f} %" for share in (0.5, 0.8))
    text = (
        f"Forecast {escape(forecast)}, {len(found.pit):,} requests in arrival order: {bands}; mean pinball loss "
        f"{found.pinball_tokens:.3g} tokens. Left, flat at a tenth is right; high at both ends is too sure, high on "
        "the right is too short. Middle, the line should lie on the dotted one."
    )
    if not with_batches:
        return text
    shares = ", ".join(
        f"{100 * seen:.1f} % of {100 * chance:g} %" for seen, chance in zip(found.exceeded, CHANCES, strict=True)
    )
    return (
        f"{text} Right, of {found.batches:,} batches those whose peak within {HORIZON_TOKENS} tokens exceeded what was "
        f"promised to be exceeded so often: {shares}."
    )
