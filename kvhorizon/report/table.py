"""The policies side by side, as an HTML table with ratios to first-come-first-served."""

from __future__ import annotations

from html import escape
from typing import Any

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
CLASS_COLUMNS: tuple[tuple[str, tuple[str, ...], int, bool], ...] = (
    ("TTFT p50, s", ("ttft_s", "p50"), 2, True),
    ("TTFT p99, s", ("ttft_s", "p99"), 1, True),
    ("TPOT p99, s", ("tpot_s", "p99"), 3, True),
    ("in time", ("slo_attainment",), 3, False),
)
CACHED_COLUMNS: tuple[tuple[str, tuple[str, ...], int, bool], ...] = (
    ("prompt tokens found cached", ("cached_share",), 3, False),
    ("prefill tokens computed per request", ("prefill_tokens_per_request",), 0, True),
)
NOTICEABLE = 0.005  # relative change below which a ratio is neither better nor worse


def value(row: Row, path: tuple[str, ...]) -> float | None:
    """An entry of a policy's results, or None."""
    found: Any = row
    for key in path:
        found = None if found is None else found.get(key)
    return found  # type: ignore[no-any-return]


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


def comparison(rows: list[Row], prefix_caching: bool = False) -> str:
    """The table (HTML); with prefix caching, also what each policy finds cached and what it has to compute."""
    base = next((row for row in rows if row["policy"] == "fcfs"), None)
    head = "".join(f'<th scope="col">{escape(row["policy"])}</th>' for row in rows)
    body = ""
    for title, path, digits, less in (*COLUMNS[:3], *(CACHED_COLUMNS if prefix_caching else ()), *COLUMNS[3:]):
        cells = "".join(_cell(row, base, path, digits, less) for row in rows)
        body += f'<tr><th scope="row">{title}</th>{cells}</tr>'
    decided = "".join(f"<td>{_decided(row['plans'])}</td>" for row in rows)
    return (
        '<p class="soft" id="policies-note">Small figures are ratios to first-come-first-served (fcfs). The hindsight '
        "bound is a mean latency that no schedule on this engine can go below, even one that knows all requests "
        "beforehand.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Policies side by side">'
        '<table id="policies-table" aria-describedby="policies-note">'
        f'<thead><tr><th scope="col"></th>{head}</tr></thead>'
        f'<tbody>{body}<tr><th scope="row">plans by</th>{decided}</tr></tbody></table></div>'
    )


def _decided(plans: dict[str, int]) -> str:
    named = [f"{name} {count:,}" for name, count in plans.items() if count]
    return ", ".join(named) or "–"


def by_class(rows: list[Row]) -> str:
    """The classes of service under each policy, as an HTML section; empty where there are none."""
    if not rows or not rows[0].get("classes"):
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *(row["policy"] for row in rows)))
    base = next((row for row in rows if row["policy"] == "fcfs"), None)
    body = ""
    for name in rows[0]["classes"]:
        for title, path, digits, less in CLASS_COLUMNS:
            cells = "".join(_cell(row, base, ("classes", name, *path), digits, less) for row in rows)
            body += f'<tr><th scope="row">{escape(name)}: {title}</th>{cells}</tr>'
    return (
        '<section aria-labelledby="classes"><h2 id="classes">Classes of service</h2>'
        '<p class="soft" id="classes-note">In time: met every target of its class.</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Classes of service under each policy">'
        '<table id="classes-table" aria-describedby="classes-note">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )
