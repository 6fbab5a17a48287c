"""What-if over many points: sweeps of arguments, and searches for the largest load or the smallest pool."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from kvhorizon.cli.bars import bars
from kvhorizon.cli.warn import warn
from kvhorizon.whatif.capacity_search import Found, Sought, search, sought
from kvhorizon.whatif.goals import Goal, figure, parse_goals
from kvhorizon.whatif.many import answer_all
from kvhorizon.whatif.question import Question, prepare
from kvhorizon.whatif.sweep import Point, parse_axis, points

SCHEMA = 1
AnswerAll = Callable[..., list[dict[str, Any]]]  # `answer_all` with its executor and workers
KEPT = "answers.jsonl"  # what an interrupted run had already
COLUMNS = {  # heading: figure
    "evictions": "preemption_frequency",
    "TTFT": "ttft_mean",
    "TTFT p99": "ttft_p99",
    "e2e": "e2e_mean",
    "e2e p99": "e2e_p99",
    "goodput": "goodput",
    "tok/s": "throughput_tok_s",
}


def sweep(question: Question, texts: Sequence[str], work: int, how: AnswerAll, folder: Path, command: str) -> Table:
    """Answer the question at every point, by `how`; writes sweep.json and report.html. Raises InputError."""
    axes = [parse_axis(text) for text in texts]
    asked = points(question, axes)
    warn(prepare(asked[0]).warnings)
    with bars() as show:
        progress = functools.partial(show, f"{len(asked)} points")
        answers = how(asked, work, kept_in=folder / KEPT, progress=progress)
    found = [
        Point({axis.name: getattr(one, axis.name) for axis in axes}, results)
        for one, results in zip(asked, answers, strict=True)
    ]
    whole = {
        "schema": SCHEMA,
        "axes": [axis._asdict() for axis in axes],
        "points": [point._asdict() for point in found],
        "warnings": list(dict.fromkeys(text for point in found for text in point.results["warnings"])),
    }
    from kvhorizon.report.sweep_page import render_sweep

    (folder / "sweep.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render_sweep(axes, found, command), encoding="utf-8")
    return _sweep_table(found)


def _sweep_table(found: Sequence[Point]) -> Table:
    table = Table(title=f"{found[0].results['trace']['name']}; evictions per request, seconds")
    for name in (*found[0].at, "policy"):
        table.add_column(name, no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for point in found:
        for entry in point.results["policies"]:
            cells = [_short(figure(entry, name)) for name in COLUMNS.values()]
            table.add_row(*(str(value) for value in point.at.values()), entry["policy"], *cells)
    return table


def _short(value: float | None) -> str:
    """Three digits, or whole numbers."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def find(question: Question, goals_text: str, over: str, work: int, folder: Path) -> Table:
    """The best value of `over` under each policy; writes find.json. Raises InputError."""
    goals = parse_goals(goals_text)
    uncut = dataclasses.replace(question, max_output_tokens=None)  # a pool must hold requests as they came
    prepared = prepare(uncut)
    warn(prepared.warnings)
    what = sought(prepared.setup, over)

    def ask(one: Question) -> dict[str, Any]:
        return answer_all([one], work, kept_in=folder / KEPT)[0]

    found: list[Found] = []
    with bars() as show:
        for policy in question.policies:
            found.append(search(question, policy, goals, what, ask))
            show("policies", len(found) / len(question.policies))
    whole = {
        "schema": SCHEMA,
        "question": dataclasses.asdict(question),
        "goals": [goal._asdict() for goal in goals],
        "over": what.name,
        "found": [one._asdict() for one in found],
        "prefix_caching": prepared.prefix_caching.on,
        "prefix_caching_says": prepared.prefix_caching.says,
        "warnings": list(prepared.warnings),
    }
    (folder / "find.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return _find_table(found, goals, what)


def _find_table(found: Sequence[Found], goals: Sequence[Goal], what: Sought) -> Table:
    told = ", ".join(f"{goal.name} {'<=' if goal.at_most else '>='} {goal.bound:g}" for goal in goals)
    table = Table(title=f"{'largest' if what.largest else 'smallest'} {what.name} with {told}")
    table.add_column("policy", no_wrap=True)
    table.add_column(what.name, justify="right")
    table.add_column("points tried", justify="right")
    for one in found:
        table.add_row(one.policy, "none" if one.value is None else f"{one.value:g}", str(len(one.tried)))
    return table
