"""`kvhorizon plan`: one snapshot in, one plan and its explanation out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from kvhorizon.cli.budget import parse_budget
from kvhorizon.errors import InputError
from kvhorizon.solver.explain import explain
from kvhorizon.solver.program.search.planner import Planner, PlannerSettings, Solved
from kvhorizon.solver.snapshot_json import snapshot_from_json
from kvhorizon.state import Snapshot


def read(path: Path) -> Snapshot:
    """The snapshot in a JSON file. Raises InputError."""
    try:
        return snapshot_from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("snapshot", str(path), f"must be a readable file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError("snapshot", str(path), "must be UTF-8 text") from None


def as_json(solved: Solved) -> dict[str, object]:
    """The plan and the program's reasons, as plain data."""
    made = solved.plan
    return {
        "source": made.source.name.lower(),
        "objective_s": made.objective,
        "bound_s": made.bound,
        "gap": made.gap,
        "work_units": made.work_units,
        "solve_s": round(made.solve_s, 6),
        "admissions": [
            {"handle": int(handle), "at_steps": float(steps)}
            for handle, steps in zip(made.admissions, made.admit_at_steps, strict=True)
        ],
        "evictions": made.evictions.tolist(),
        "buckets": [
            {"from_step": float(step), "price_s_per_block": float(price)}
            for step, price in zip(made.bucket_steps, made.block_prices, strict=True)
        ],
        "explanations": explain(solved.problem, solved.improved),
    }


def plan(
    snapshot: Annotated[
        Path, typer.Argument(help="Running and waiting requests as JSON (an example: docs/snapshot.json).")
    ],
    budget: Annotated[str, typer.Option(help="5ms, or work units such as 100.")] = "100",
) -> None:
    """Plan for one snapshot and explain each decision, as JSON."""
    solved = Planner(PlannerSettings(), time.perf_counter).solve(read(snapshot), parse_budget(budget))
    print(json.dumps(as_json(solved), indent=1))
