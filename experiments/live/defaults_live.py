"""vLLM's own defaults on a real engine: prefix caching on, closed loops; plain, watermark, rules, program.

    python -m experiments.defaults_live [--models tiny,heavy] [--loads shared,sessions,…] [--rounds 8] [--fresh]

Five loads (`_defaults_loads`) on two models (`_defaults_models`). Each contender has a server of its own and all are
asked by the same clients, one after the other, in an order that rotates from round to round; a load ends when the first
client finds no further session, so that the last requests of contenders differ; servers are started anew among
the rounds, since two processes of one program differ by some percent. Ratios are medians of the rounds' own; counts
come from a probe in the engine. Clients give no hints. Rounds are kept one by one in `out/defaults_live.jsonl`, so
that parts of the experiment add up and an interrupted one goes on; they count as long as the product's sources stay as
they are. The result is kept once every cell has its rounds; until then the table says what lacks. Needs `make engine`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.common._harness import Options, report
from experiments.live.defaults._defaults_figures import targets, together
from experiments.live.defaults._defaults_kept import CODE, Cell, Rounds
from experiments.live.defaults._defaults_loads import NAMES, make_load
from experiments.live.defaults._defaults_models import MODELS
from experiments.live.defaults._defaults_rounds import Engine, engine_of, one_round, start
from kvhorizon.errors import InputError

KEPT = Path("out") / "defaults_live.jsonl"
ROUNDS, STARTS = 8, 2
WARM_SEED, WARM_REQUESTS = 10_000, 60
REQUESTS = {
    "tiny": {"shared": 900, "sessions": 420, "mixed": 400, "light": 160, "cold": 500},
    "heavy": {"shared": 360, "sessions": 400, "mixed": 240, "light": 160, "cold": 240},
}
QUICK_CELLS = (Cell("tiny", "shared", 200), Cell("tiny", "sessions", 60))


def cells_of(models: Sequence[str], loads: Sequence[str]) -> list[Cell]:
    """Of these models and loads; raises InputError where there is no such thing."""
    for field, names, known in (("models", models, list(MODELS)), ("loads", loads, list(NAMES))):
        for name in names:
            if name not in known:
                raise InputError(field, name, f"must be of {', '.join(known)}")
    return [Cell(model, load, REQUESTS[model][load]) for model in models for load in loads]


def measure(cells: Sequence[Cell], rounds: int, kept: Rounds) -> None:
    """Whatever rounds lack, in STARTS parts of which each begins with new servers; few rounds are one part."""
    starts = STARTS if rounds >= 2 * STARTS else 1
    for part in range(1, starts + 1):
        goal = rounds * part // starts
        lacking = sorted(kept.lacking(cells, goal), key=_servers)
        for (model, _), together_served in groupby(lacking, key=_servers):
            _measure(model, list(together_served), goal, kept)


def _servers(cell: Cell) -> tuple[str, Engine]:
    return cell.model, engine_of(make_load(cell.load, WARM_REQUESTS, WARM_SEED))


def _measure(model: str, cells: Sequence[Cell], goal: int, kept: Rounds) -> None:
    with ExitStack() as stack:
        servers = start(stack, MODELS[model], [make_load(cell.load, WARM_REQUESTS, WARM_SEED) for cell in cells])
        for cell in cells:
            for number in range(len(kept.of(cell)), goal):
                print(cell, file=sys.stderr, end=" ")
                rows = one_round(servers, make_load(cell.load, cell.requests, number), number, MODELS[model])
                kept.add(cell, rows, os.getloadavg()[0])


def figures_of(cells: Sequence[Cell], kept: Rounds, rounds: int) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Figures and targets of what there is, and whether all of the experiment is there."""
    there = {str(cell): together(kept.of(cell)) for cell in cells if kept.of(cell)}
    lacking = {str(cell): f"{len(kept.of(cell))} of {rounds} rounds" for cell in kept.lacking(cells, rounds)}
    figures = {"code": CODE, "cores": os.cpu_count(), "load_average": os.getloadavg()[0], **there}
    if lacking:
        return {**figures, "lacking": lacking}, {}, False
    return figures, targets(there), True


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.defaults_live", description=__doc__)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--loads", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each cell, with those kept before")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds kept before")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a smoke run of two small cells, not kept")
    return parser.parse_args()


def main() -> None:
    """Measure what lacks, report what there is; bad input ends in one line and exit status 2."""
    arguments = parse()
    try:
        wanted = cells_of(arguments.models, arguments.loads)
        if arguments.rounds < 1:
            raise InputError("rounds", arguments.rounds, "must be >= 1")
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if arguments.fresh and not arguments.quick:
        KEPT.unlink(missing_ok=True)
    kept = Rounds(None if arguments.quick else KEPT)
    rounds, every = (1, QUICK_CELLS) if arguments.quick else (arguments.rounds, cells_of(list(MODELS), NAMES))
    measure(QUICK_CELLS if arguments.quick else wanted, rounds, kept)
    figures, found, whole = figures_of(every, kept, rounds if arguments.quick else ROUNDS)
    report("defaults_live", 0, figures, found, Options(arguments.json, arguments.quick or not whole))


if __name__ == "__main__":
    main()
