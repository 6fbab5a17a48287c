"""The scoreboard: every policy on the frozen cells, as ratios to first-come-first-served and to the watermark.

    python -m experiments.scoreboard [--cells SUBSTRING] [--policies P,…] [--forecast F] [--seeds 0-4] [--from] [--json]

Runs are kept one by one in `out/scoreboard.jsonl`, so that an interrupted run goes on where it stopped; `--from`
only reads them. Ratios are geometric means over cells and seeds, each floored at 0.01; differences (goodput) are means;
`worst` is the worst cell's mean over seeds; intervals are bootstrapped over cells.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments._cells import Cell, build, frozen_cells, tpot_target
from experiments._harness import Options, report
from experiments._ratios import aggregate
from kvhorizon import __version__
from kvhorizon.errors import InputError
from kvhorizon.sim.alone import alone
from kvhorizon.sim.metrics import summarize
from kvhorizon.sim.policies import parse_policy
from kvhorizon.sim.replay import replay

KEPT = Path("out") / "scoreboard.jsonl"
SEED = 0
REFERENCES = ("fcfs", "watermark:0.02")
DEFAULT_POLICIES = ("kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon:greedy/strict")


def run_one(cell: Cell, seed: int, policy: str, forecast: str) -> dict[str, Any]:
    """One replay and all its columns."""
    setup = build(cell, seed, forecast)
    began = time.perf_counter()
    outcome = replay(setup, parse_policy(policy))
    wall_s = time.perf_counter() - began
    prefill_s, service_s = alone(setup)
    columns = summarize(
        setup.trace,
        outcome,
        prefill_alone_s=prefill_s,
        service_alone_s=service_s,
        tpot_target_s=tpot_target(cell),
    )
    key = {"cell": cell.name, "kind": cell.kind, "seed": seed, "policy": policy, "forecast": forecast}
    return {**key, "version": __version__, "columns": columns, "wall_s": round(wall_s, 3)}


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["cell"], row["seed"], row["policy"], row["forecast"])


def load(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows kept by earlier runs, by identity; the last of the same identity counts."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {identity(row): row for row in rows}


def wanted(cells: list[Cell], policies: Iterable[str], seeds: list[int], forecast: str) -> list[tuple[Any, ...]]:
    """Everything that the arguments ask for; references do not depend on the forecast."""
    names = dict.fromkeys([*REFERENCES, *policies])
    return [
        (cell, seed, policy, "none" if policy in REFERENCES else forecast)
        for cell in cells
        for seed in seeds
        for policy in names
    ]


def gather(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows asked for, from those kept and from new replays."""
    cells = [cell for cell in frozen_cells() if arguments.cells in cell.name]
    kept = load(KEPT)
    rows = []
    for cell, seed, policy, forecast in wanted(cells, arguments.policies, arguments.seeds, arguments.forecast):
        key = (cell.name, seed, policy, forecast)
        if key not in kept:
            if arguments.kept_only:
                continue
            kept[key] = run_one(cell, seed, policy, "history" if forecast == "none" else forecast)
            kept[key]["forecast"] = forecast
            if not arguments.quick:
                KEPT.parent.mkdir(exist_ok=True)
                with KEPT.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(kept[key]) + "\n")
            print(".", end="", file=sys.stderr, flush=True)
        rows.append(kept[key])
    return rows


def seeds_of(text: str) -> list[int]:
    """`3` or `0-4`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.scoreboard", description=__doc__)
    parser.add_argument("--cells", default="", help="only cells whose name contains this")
    parser.add_argument("--policies", type=lambda text: text.split(","), default=list(DEFAULT_POLICIES))
    parser.add_argument("--forecast", default="noisy:0.6")
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("0-4"))
    parser.add_argument("--from", dest="kept_only", action="store_true", help="only what earlier runs kept")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed, nothing kept")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = [0]
    return arguments


def main() -> None:
    arguments = parse()
    try:
        rows = gather(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    figures = aggregate(rows)
    report("scoreboard", SEED, figures, {}, Options(arguments.json, arguments.quick))


if __name__ == "__main__":
    main()
