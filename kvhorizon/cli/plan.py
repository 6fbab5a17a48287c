"""`kvhorizon plan`: one snapshot in, one plan and its explanation out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format

from kvhorizon.cli.budget import parse_budget
from kvhorizon.errors import InputError
from kvhorizon.solver.planner import Planner, PlannerSettings
from kvhorizon.solver.service_explain import explain
from kvhorizon.solver.session import read_snapshot
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.v1 import scheduler_pb2 as pb


def read(path: Path) -> Snapshot:
    """The snapshot in a JSON file, the protobuf JSON form of the contract's Snapshot. Raises InputError."""
    try:
        message = json_format.Parse(path.read_text(encoding="utf-8"), pb.Snapshot())
    except OSError as error:
        raise InputError("snapshot", str(path), f"must be a readable file ({error.strerror})") from None
    except (json_format.ParseError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError("snapshot", str(path), f"must be a Snapshot as JSON ({reason})") from None
    return read_snapshot(message)


def as_json(snapshot: Snapshot, made: Plan) -> dict[str, object]:
    """The plan and one sentence per live request, as plain data."""
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
        "victims": made.victims.tolist(),
        "buckets": [
            {"from_step": float(step), "price_s_per_block": float(price)}
            for step, price in zip(made.bucket_steps, made.block_prices, strict=True)
        ],
        "reserve_blocks": made.reserve_blocks,
        "explanations": {str(reason.handle): reason.text for reason in explain(snapshot, made, [])},
    }


def plan(
    snapshot: Annotated[Path, typer.Argument(help="A Snapshot of the wire contract, as JSON.")],
    budget: Annotated[str, typer.Option(help="5ms, or work units such as 100.")] = "100",
) -> None:
    """Plan for one snapshot and explain each decision, as JSON."""
    state = read(snapshot)
    made = Planner(PlannerSettings(), time.perf_counter).plan(state, parse_budget(budget))
    print(json.dumps(as_json(state, made), indent=1))
