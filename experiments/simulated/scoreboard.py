"""The scoreboard: every policy on the frozen cells, as ratios to first-come-first-served and to the watermark.

    python -m experiments.scoreboard [--cells SUBSTRING] [--policies P,…] [--forecast F] [--seeds 0-4] [--workers 2]
    python -m experiments.scoreboard --from out/scoreboard.jsonl

Runs are kept one by one in `out/scoreboard.jsonl`, so that an interrupted run goes on where it stopped; `--from` only
reads a file of them. Ratios are geometric means over cells and seeds, each floored at 0.01; differences (goodput) are
means; `worst` is the worst cell's mean over seeds; intervals are bootstrapped over cells. Policies may have a forecast
or reload of their own: `kvhorizon:greedy@oracle`, `kvhorizon:greedy+reload`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from experiments.common._cells import Cell, frozen_cells
from experiments.common._harness import RESULTS, versions
from experiments.common._ratios import REFERENCES, aggregate, print_tables
from experiments.common._runs import ANY_FORECAST, Job, Row, gather, is_current, load
from experiments.common._sources import digest_of
from experiments.simulated._pareto import draw
from kvhorizon.errors import InputError

KEPT = Path("out") / "scoreboard.jsonl"
RELOAD_S = 5.2e-6  # per token: an 8B model's KV over PCIe 4.0 x16 at 25 GB/s
NO_FORECAST = (*REFERENCES, "watermark:0.05", "priority", "fcfs:free-recompute", "reserve-max", "lcf", "sglang")
COMPILED = (
    *("watermark:0.05", "fcfs:free-recompute", "reserve-max", "sglang", "past-future", "sjf", "srpt", "mc-sf"),
    *("sorted-f", "a-min", "ltr", "lcf", "cost-aware", "flops-per-mb"),
    *("kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon:greedy/strict", "kvhorizon:greedy+reload"),
)


def job_of(cell: Cell, seed: int, name: str, forecast: str) -> Job:
    """`POLICY[@FORECAST][+reload]` on a cell."""
    name, _, reload = name.partition("+")
    policy, _, own = name.partition("@")
    known = ANY_FORECAST if policy in NO_FORECAST else own or forecast
    return Job(cell, seed, policy, known, RELOAD_S if reload else 0.0)


def wanted(cells: Iterable[Cell], names: Iterable[str], seeds: list[int], forecast: str) -> list[Job]:
    """Everything that the arguments ask for, with the references."""
    every = dict.fromkeys([*REFERENCES, *names])
    return [job_of(cell, seed, name, forecast) for cell in cells for seed in seeds for name in every]


def seeds_of(text: str) -> list[int]:
    """`3` or `0-4`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.scoreboard", description=__doc__)
    parser.add_argument("--cells", default="", help="only cells whose name contains this")
    parser.add_argument("--policies", type=lambda text: text.split(","), default=list(COMPILED))
    parser.add_argument("--forecast", default="noisy:0.6")
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("0-4"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--from", dest="source", type=Path, help="only read the runs kept in this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed, nothing kept")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = [0]
    return arguments


def rows_of(arguments: argparse.Namespace) -> list[Row]:
    """Kept rows, or those of every job asked for."""
    if arguments.source:
        rows = load(arguments.source).values()
        return [row for row in rows if arguments.cells in row["cell"] and row["seed"] in arguments.seeds]
    cells = [cell for cell in frozen_cells() if arguments.cells in cell.name]
    if not cells:
        raise InputError("cells", arguments.cells, "must be part of a cell's name")
    jobs = wanted(cells, arguments.policies, arguments.seeds, arguments.forecast)
    return gather(jobs, None if arguments.quick else KEPT, arguments.workers)


def sources_of(rows: list[Row]) -> str | None:
    """The digest of the sources, if all rows are of the code as it is."""
    return digest_of("scoreboard") if all(is_current(row) for row in rows) else None


def main() -> None:
    arguments = parse()
    try:
        rows = rows_of(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    cpu_s = round(sum(row["cpu_s"] for row in rows))
    about = {"command": "python -m experiments.scoreboard", "versions": versions(), "sources": sources_of(rows)}
    result = {**about, "cpu_s": cpu_s, **aggregate(rows)}
    if arguments.json:
        print(json.dumps(result))
    else:
        print_tables(result)
    if not arguments.quick:
        draw(result)
        (RESULTS / "scoreboard.json").write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
