"""The tuned front of the program, and how much of the greedy's tuned front (`front`) it dominates.

A point of the greedy's front (mean and p99 end-to-end latency, recomputation) is dominated by one of the program's that
is at least 2 % better in one of the three and at most 1 % worse in the others, and nine tenths of whose plans the
program made. Both without reload, with the same lengths. Every setting of both is tuned on seed 100 over eight KV-bound
cells. The few of the program's that together dominate most of the greedy's front there are judged, with the shipped
ones and three that were tuned by hand, on seeds 0 and 1 over all KV-bound cells, against the greedy's as judged by
`front`. Runs are kept in `out/program_front.jsonl`, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common._cells import Cell
from experiments.common._harness import RESULTS, Figures, Options, Targets, main, target
from experiments.common._runs import Row
from experiments.fronts._front import SEED, not_dominated, settings
from experiments.fronts._program_front import ProgramSetting, judged_settings, program_settings
from experiments.fronts.front import (
    JUDGED_ON,
    KEPT_COLUMNS,
    QUICK_CELLS,
    TUNED_ON,
    TUNING_CELLS,
    bound_cells,
    replayed,
    scores,
    tuning,
    tuning_cells,
)
from experiments.fronts.front import KEPT as GREEDY_KEPT
from kvhorizon.errors import InputError

KEPT = Path("out") / "program_front.jsonl"
QUICK_SETTINGS = 4
MOST_PICKED = 5  # besides those judged in any case: each takes minutes
COMPARED = ("e2e_mean", "e2e_p99", "recompute_gpu_s")
BETTER, WORSE = 0.98, 1.01
LEAST_PROGRAM_SHARE = 0.9
Point = Sequence[float]  # of the compared columns


def dominates(ours: Point, theirs: Point) -> bool:
    """Whether `ours` is 2 % better in one and no more than 1 % worse in the others."""
    pairs = list(zip(ours, theirs, strict=True))
    return any(a <= BETTER * b for a, b in pairs) and all(a <= WORSE * b for a, b in pairs)


def front_of(points: dict[str, Point]) -> dict[str, Point]:
    """Those that no other beats in all compared columns, by name."""
    names = list(points)
    return {names[i]: points[names[i]] for i in not_dominated([tuple(points[name]) for name in names])}


def judged_front(source: Path = RESULTS / "front.json") -> dict[str, Point]:
    """The greedy's front on the judging seeds, without reload."""
    if not source.exists():
        raise InputError("front", source.name, "must have been measured first: python -m experiments.front")
    judged = json.loads(source.read_text(encoding="utf-8"))[-1]["figures"]["judged"]
    return front_of({p["setting"]: [p["columns"][name][0] for name in COMPARED] for p in judged if not p["reload"]})


def covering(ours: Sequence[Point], theirs: Sequence[Point], most: int = MOST_PICKED) -> list[int]:
    """Places of the few of `ours` that together dominate most of `theirs`: in turn the one that adds most."""
    left, picked = list(theirs), []
    while len(picked) < most:
        added = [sum(dominates(point, one) for one in left) for point in ours]
        best = max(range(len(ours)), key=added.__getitem__)
        if added[best] == 0:
            break
        picked.append(best)
        left = [one for one in left if not dominates(ours[best], one)]
    return picked


def program_share(rows: Sequence[Row]) -> float:
    """Of all plans of these replays, those that the program made."""
    plans: Counter[str] = Counter()
    for row in rows:
        plans.update(row["columns"]["plans"])
    return plans["program"] / max(plans.total(), 1)


def _point(columns: Mapping[str, Any]) -> Point:
    return [columns[name][0] for name in COMPARED]


def _picked(
    every: Sequence[ProgramSetting], tuned: Sequence[Mapping[str, Any]], cells: Sequence[Cell], options: Options
) -> list[ProgramSetting]:
    """Those judged in any case, and those that cover the greedy's front where both were tuned."""
    greedy = [setting for setting in settings() if not setting.reload][: QUICK_SETTINGS if options.quick else None]
    rows = replayed(greedy, cells, TUNED_ON, None if options.quick else GREEDY_KEPT)
    points = {s.name: _point(c) for s, c in zip(greedy, scores(greedy, rows, COMPARED), strict=True)}
    chosen = covering([_point(columns) for columns in tuned], list(front_of(points).values()))
    return list(dict.fromkeys([*judged_settings(), *(every[i] for i in chosen)]))


def measure(options: Options) -> tuple[Figures, Targets]:
    """Tune, pick, judge, compare."""
    every = program_settings()[:QUICK_SETTINGS] if options.quick else program_settings()
    cells = tuning_cells(QUICK_CELLS if options.quick else TUNING_CELLS)
    judges, kept = (cells, None) if options.quick else (bound_cells(), KEPT)
    theirs = judged_front()
    began_s = time.perf_counter()
    tuned = scores(every, replayed(every, cells, TUNED_ON, kept), COMPARED)
    picked = _picked(every, tuned, cells, options)
    rows = replayed(picked, judges, JUDGED_ON, kept)
    judged: list[dict[str, Any]] = [
        {"setting": s.name, "program_share": program_share(rows[s.name]), "columns": columns}
        for s, columns in zip(picked, scores(picked, rows, KEPT_COLUMNS), strict=True)
    ]
    ours = [_point(point["columns"]) for point in judged if point["program_share"] >= LEAST_PROGRAM_SHARE]
    beaten = {name: any(dominates(one, point) for one in ours) for name, point in theirs.items()}
    figures = {
        **tuning(every, tuned, cells, len(picked)),
        "wall_s": time.perf_counter() - began_s,
        "judged": judged,
        "greedy_front": theirs,
        "not_dominated": [name for name, is_beaten in beaten.items() if not is_beaten],
    }
    return figures, {"dominates_greedy_front": target(sum(beaten.values()) / len(beaten), ">=0.9")}


if __name__ == "__main__":
    main("program_front", SEED, measure)
