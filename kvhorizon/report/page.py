"""A what-if's answer as one self-contained HTML page: the answer first, then the figures it rests on."""

from __future__ import annotations

from html import escape, unescape
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from kvhorizon.report.advice import Advice, advise
from kvhorizon.report.calibration import calibration
from kvhorizon.report.compare import by_length, by_tenant, engine_time, pareto
from kvhorizon.report.failure import failure_cost
from kvhorizon.report.figures import Picture, distributions, occupancy
from kvhorizon.report.minute import minute
from kvhorizon.report.replayed import replayed
from kvhorizon.report.table import by_class, comparison
from kvhorizon.whatif.question import Answer


def pictures(answer: Answer) -> list[Picture]:
    """All figures in the order of the page."""
    found = [
        failure_cost(answer),
        pareto(answer),
        by_length(answer),
        by_tenant(answer),
        engine_time(answer),
        occupancy(answer),
    ]
    return [*(picture for picture in found if picture is not None), *distributions(answer)]


def _advice(advice: Advice) -> str:
    """The answer: what to switch on, what it buys, what it costs, how sure."""
    parts = [f'<p class="headline">{escape(advice.headline)}</p>']
    if advice.switch:
        parts.append(
            f'<p class="switch"><span class="soft">Switch it on</span><code>{escape(advice.switch)}</code></p>'
        )
    lists = (
        ("It buys", advice.buys, "better-side"),
        ("It costs", advice.costs, "worse-side"),
        ("How sure", advice.sure, "sure-side"),
    )
    columns = ""
    for title, items, kind in lists:
        if items:
            entries = "".join(f"<li>{escape(item)}</li>" for item in items)
            columns += f'<div class="{kind}"><h3>{title}</h3><ul>{entries}</ul></div>'
    return (
        f'<section class="answer" aria-label="The answer">{"".join(parts)}<div class="sides">{columns}</div></section>'
    )


def _check(results: dict[str, Any]) -> str:
    """Whether the simulated engine does as the recorded one, before everything else."""
    checked = results.get("self_check")
    if not checked:
        return ""
    kind = "differs" if checked["differs"] else "agrees"
    title = (
        "The simulation differs from the recording"
        if checked["differs"]
        else "The simulation agrees with the recording"
    )
    return (
        f'<section class="check {kind}" role="note" aria-label="{title}"><strong>{title}.</strong> '
        f"{escape(checked['says'])}</section>"
    )


def _warnings(results: dict[str, Any]) -> str:
    """What whoever reads the figures must know first."""
    return "".join(
        f'<section class="check differs" role="note" aria-label="Warning"><strong>Note.</strong> '
        f"{escape(text)}.</section>"
        for text in results.get("warnings", ())
    )


def _simulated(engine: dict[str, Any]) -> str:
    caching = engine.get("prefix_caching_says")
    return f"{engine['model']} on {engine['gpu']}, simulated" + (f"; prefix caching {caching}" if caching else "")


def section(picture: Picture) -> str:
    """One figure under its heading, with its words for those who do not see it."""
    figure = picture.figure.to_json(engine="json").replace("<", "\\u003c")  # so that no text ends its script element
    plot = (
        f'<div class="plot drawn-later" id="{picture.anchor}"></div><script type="application/json">{figure}</script>'
    )
    return (
        f'<section aria-labelledby="{picture.anchor}-title"><h2 id="{picture.anchor}-title">{picture.title}</h2>'
        f'<figure role="group" aria-label="{picture.title}. {picture.says}"><figcaption>{picture.says}</figcaption>'
        f"{plot}</figure>{_numbers(picture)}</section>"
    )


def _numbers(picture: Picture) -> str:
    """The figure's numbers for those who want or hear them; names in the rows are escaped already or here."""
    if not picture.table:
        return ""
    head = "".join(f'<th scope="col">{escape(name, quote=False)}</th>' for name in picture.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(unescape(first))}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in picture.table
    )
    return (
        f'<details><summary>The numbers</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Numbers of: {picture.title}"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></details>"
    )


def document(title: str, body: str) -> str:
    """A self-contained page around `body` (HTML); `title` is escaped here. Nothing is loaded from anywhere."""
    folder = resources.files("kvhorizon.report")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{style}</style>'
        f"<script>{get_plotlyjs()}</script></head><body><main><h1>{escape(title)}</h1>{body}</main>"
        f"<script>{script}</script></body></html>\n"
    )


def render(answer: Answer, command: str) -> str:
    """The page (HTML). Every text that came from outside is escaped."""
    results = answer.results
    caching = bool(results["engine"].get("prefix_caching"))
    sections = "".join(section(picture) for picture in [*pictures(answer), *calibration(answer)])
    return document(
        f"What if: {results['trace']['name']}",
        f'<p class="soft">{escape(_simulated(results["engine"]))}</p>'
        f"{_check(results)}{_warnings(results)}{_advice(advise(answer))}"
        '<section aria-labelledby="policies"><h2 id="policies">Policies side by side</h2>'
        f"{comparison(results['policies'], caching)}</section>{by_class(results['policies'])}{sections}{minute(answer)}"
        f"{replayed(results, command)}",
    )
