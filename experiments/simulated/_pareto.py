"""Pictures of the scoreboard: what each policy pays at the tail for its mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from experiments.common._harness import RESULTS
from experiments.common._plots import ALARM, OURS, THEIRS, canvas, save

PAIRS = {
    "ttft": ("ttft_mean", "ttft_p99"),
    "tpot": ("tpot_mean", "tpot_p99"),
    "e2e": ("e2e_mean", "e2e_p99"),
    "slowdown": ("slowdown_mean", "slowdown_p99"),
    "long": ("e2e_mean", "long_ttft_p99"),
    "memory": ("preemption_frequency", "throughput"),
}
FRONT = RESULTS / "front.json"
LARGEST = 3.0  # ratios beyond it are drawn at the edge


def colour(label: str) -> str:
    """Ours, theirs."""
    return OURS if label.startswith("kvhorizon") else THEIRS


def _front() -> dict[str, list[dict[str, Any]]]:
    """The tuned greedy's settings by how KV comes back, as judged."""
    if not FRONT.exists():
        return {}
    points = json.loads(FRONT.read_text(encoding="utf-8"))[-1]["figures"]["judged"]
    return {name: [point for point in points if point["reload"] is reload]
            for name, reload in (("recompute", False), ("reload", True))}  # fmt: skip


def _draw_front(axes: Any, across: str, up: str) -> None:
    for name, points in _front().items():
        found = sorted((point["columns"][across][0], point["columns"][up][0]) for point in points)
        style = {"color": ALARM, "alpha": 0.8 if name == "recompute" else 0.4}
        axes.plot(*zip(*found, strict=True), ".", label=f"greedy's settings, {name}", **style)


def draw_one(name: str, policies: Mapping[str, Any]) -> None:
    """`scoreboard_NAME.svg`: each policy a point, ratios to first-come-first-served."""
    across, up = PAIRS[name]
    figure, axes = canvas(width=7.5, height=4.5)
    _draw_front(axes, across, up)
    for label, columns in policies.items():
        if not columns or columns[across][0] is None or columns[up][0] is None:
            continue
        x, y = min(columns[across][0], LARGEST), min(columns[up][0], LARGEST)
        axes.plot(x, y, "o", color=colour(label))
        axes.annotate(label.removesuffix("@noisy:0.6"), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6.5)
    axes.axhline(1.0, color=THEIRS, linewidth=0.6)
    axes.axvline(1.0, color=THEIRS, linewidth=0.6)
    axes.set_xlabel(f"{across} / first-come-first-served")
    axes.set_ylabel(f"{up} / first-come-first-served")
    axes.set_title("KV-bound cells, geometric means; beyond 3: at the edge")
    if FRONT.exists():
        axes.legend()
    save(figure, f"scoreboard_{name}")


def draw(result: Mapping[str, Any]) -> None:
    """All pictures."""
    policies = result["to"]["fcfs"].get("bound", {})
    for name in PAIRS if policies else ():
        draw_one(name, policies)
