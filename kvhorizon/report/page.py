"""A what-if's answer as one self-contained HTML page: the answer first, then the figures it rests on."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from kvhorizon.report.calibration import calibration
from kvhorizon.report.figures import Picture, pictures
from kvhorizon.sim.whatif import Answer

Row = dict[str, Any]
# heading, path into a policy's entry, digits, whether less is better
COLUMNS: tuple[tuple[str, tuple[str, ...], int, bool], ...] = (
    ("evictions per request", ("preemption_frequency",), 3, True),
    ("recompute, engine s", ("recompute_gpu_s",), 1, True),
    ("recompute, share of FLOPs", ("recompute_fraction",), 3, True),
    ("TTFT mean, s", ("ttft_s", "mean"), 2, True),
    ("TTFT p99, s", ("ttft_s", "p99"), 1, True),
    ("TPOT p99, s", ("tpot_s", "p99"), 3, True),
    ("latency mean, s", ("e2e_s", "mean"), 1, True),
    ("latency mean / hindsight bound", ("over_bound",), 2, True),
    ("latency p99, s", ("e2e_s", "p99"), 1, True),
    ("goodput", ("goodput",), 3, False),
    ("tokens per s", ("throughput_tok_s",), 0, False),
    ("GPU utilization", ("gpu_utilization",), 3, False),
)
NOTICEABLE = 0.005  # relative change below which a ratio is neither better nor worse


def value(row: Row, path: tuple[str, ...]) -> float | None:
    """An entry of a policy's results, or None."""
    found: Any = row
    for key in path:
        found = None if found is None else found.get(key)
    return found  # type: ignore[no-any-return]


def headline(rows: list[Row]) -> str:
    """One sentence: what to switch on, what it buys, what it costs against first-come-first-served."""
    base = next((row for row in rows if row["policy"] == "fcfs"), None)
    real = [row for row in rows if row["policy"] != "fcfs" and "free-recompute" not in row["policy"]]
    if base is None or not real:
        return "Add the policy fcfs to compare against first-come-first-served."
    if base["preemption_frequency"] < 0.005:
        return (
            "This load hardly evicts anyone first-come-first-served "
            f"({base['preemptions']} evictions): memory is not what limits it, and there is little to win."
        )
    best = min(real, key=lambda row: row["e2e_s"]["mean"])
    saved = 1.0 - best["preemptions"] / max(base["preemptions"], 1)
    mean = best["e2e_s"]["mean"] / base["e2e_s"]["mean"] - 1.0
    tail = best["e2e_s"]["p99"] / base["e2e_s"]["p99"] - 1.0
    return (
        f"{best['policy']} avoids {saved:.0%} of the evictions of first-come-first-served; mean latency changes by "
        f"{mean:+.0%}, the slowest 1 % by {tail:+.0%}, throughput by "
        f"{best['throughput_tok_s'] / base['throughput_tok_s'] - 1.0:+.1%}."
    )


def _cell(row: Row, base: Row | None, path: tuple[str, ...], digits: int, less_is_better: bool) -> str:
    here = value(row, path)
    if here is None:
        return "<td>–</td>"
    text = f"{here:,.{digits}f}"
    there = value(base, path) if base is not None and base is not row else None
    if not there:
        return f"<td>{text}</td>"
    ratio = here / there
    kind = ""
    if abs(ratio - 1.0) > NOTICEABLE:
        kind = "better" if (ratio < 1.0) == less_is_better else "worse"
    return f'<td>{text} <small class="{kind}">×{ratio:.2f}</small></td>'


def _comparison(rows: list[Row]) -> str:
    base = next((row for row in rows if row["policy"] == "fcfs"), None)
    head = "".join(f'<th scope="col">{escape(row["policy"])}</th>' for row in rows)
    body = ""
    for title, path, digits, less in COLUMNS:
        cells = "".join(_cell(row, base, path, digits, less) for row in rows)
        body += f'<tr><th scope="row">{title}</th>{cells}</tr>'
    decided = "".join(f"<td>{_decided(row['plans'])}</td>" for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Policies side by side"><table>'
        "<caption>Small figures are ratios to first-come-first-served (fcfs). The hindsight bound is a mean latency "
        "that no schedule on this engine can go below, even one that knows all requests beforehand.</caption>"
        f'<thead><tr><th scope="col"></th>{head}</tr></thead>'
        f'<tbody>{body}<tr><th scope="row">plans by</th>{decided}</tr></tbody></table></div>'
    )


def _decided(plans: dict[str, int]) -> str:
    named = [f"{name} {count:,}" for name, count in plans.items() if count]
    return ", ".join(named) or "–"


def section(picture: Picture) -> str:
    """One figure under its heading, with its words for those who do not see it."""
    plot = picture.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=picture.anchor,
        config={"responsive": True, "displayModeBar": False},
    )
    return (
        f'<section aria-labelledby="{picture.anchor}-title"><h2 id="{picture.anchor}-title">{picture.title}</h2>'
        f'<figure role="group" aria-label="{picture.title}. {picture.says}"><div class="plot">{plot}</div>'
        f"<figcaption>{picture.says}</figcaption></figure></section>"
    )


def _facts(results: dict[str, Any], command: str) -> str:
    trace, engine = results["trace"], results["engine"]
    facts = {
        "trace": f"{trace['name']}: {trace['requests']:,} requests over {trace['span_s']:,.0f} s",
        "tokens": f"{trace['prompt_tokens']:,} of prompts, {trace['output_tokens']:,} of output",
        "engine": f"{engine['model']} on {engine['tp']} × {engine['gpu']}",
        "KV pool": f"{engine['kv_blocks']:,} blocks of {engine['block_size']} tokens",
        "limits": f"{engine['max_num_seqs']:,} sequences, {engine['max_num_batched_tokens']:,} tokens a step",
        "load": "the trace's own arrivals" if results["load"] is None else f"{results['load']} × capacity",
        "forecast": results["forecast"],
        "seed": str(results["seed"]),
        "sha256 of the trace": trace["sha256"],
    }
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    made = f"<dt>command</dt><dd><code>{escape(command)}</code></dd>"
    return f'<section aria-labelledby="facts"><h2 id="facts">What was replayed</h2><dl>{entries}{made}</dl></section>'


def document(title: str, body: str) -> str:
    """A self-contained page around `body` (HTML); `title` is escaped here. Nothing is loaded from anywhere."""
    style = resources.files("kvhorizon.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{style}</style>'
        f"<script>{get_plotlyjs()}</script></head><body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def render(answer: Answer, command: str) -> str:
    """The page (HTML). Every text that came from outside is escaped."""
    results = answer.results
    sections = "".join(section(picture) for picture in [*pictures(answer), *calibration(answer)])
    return document(
        f"What if: {results['trace']['name']}",
        f'<p class="soft">{escape(results["engine"]["model"])} on {escape(results["engine"]["gpu"])}, simulated</p>'
        f'<p class="answer">{escape(headline(results["policies"]))}</p>'
        '<section aria-labelledby="policies"><h2 id="policies">Policies side by side</h2>'
        f"{_comparison(results['policies'])}</section>{sections}{_facts(results, command)}",
    )
