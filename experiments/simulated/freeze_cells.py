"""Draw the scoreboard's cells, once: `python -m experiments.freeze_cells` writes `cells.toml`.

From the grid of workloads × engines × loads, in an order drawn by seed 0 and dealt out workload by workload, until 24
cells are KV-bound (at least 0.05 preemptions per request first-come-first-served) and 12 are not; and 4 stress cells.
Each is cut to at most 1 000 virtual seconds under first-come-first-served; where fewer than 200 requests would be left,
the combination is passed over, since a few requests say nothing about tails. No policy but that one is looked at.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from experiments.common._cells import FILE, LENGTHS, MEASURED, SYNTHETIC, Cell, build
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay

SEED = 0
ENGINES = (
    ("llama-3.1-8b", "l4-24gb", 1),
    ("llama-3.1-8b", "a100-40gb", 1),
    ("llama-3.1-8b", "a100-80gb", 1),
    ("llama-3.1-8b", "h100-80gb", 1),
    ("llama-3.1-70b", "a100-80gb", 4),
    ("llama-3.1-70b", "h100-80gb", 4),
)
LOADS = (0.8, 1.0, 1.2, 1.5)
LONGEST_S = 1000.0
BOUND, FREE = 24, 12
BOUND_FREQUENCY = 0.05
MOST_REQUESTS, FEWEST_REQUESTS, FEWEST_STRESSED = 6000, 200, 50
STRESS = (
    Cell("chat", "llama-3.1-8b", "a100-40gb", 1, 1.0, 2000, "stress", "tiny_pool"),
    Cell("chat", "llama-3.1-8b", "a100-40gb", 1, 0.9, 6000, "stress", "surge"),
    Cell("chat", "llama-3.1-8b", "l4-24gb", 1, 1.0, 1000, "stress", "full_prompts"),
    Cell("rollout", "llama-3.1-8b", "h100-80gb", 1, 1.0, 4000, "stress"),
)


def cut(cell: Cell, fewest: int = FEWEST_REQUESTS) -> tuple[Cell, float] | None:
    """The cell with as many requests as end within 1 000 s, and its preemptions per request, both under FCFS.

    None where less than `fewest` requests are left.
    """
    while cell.requests >= fewest:
        setup = build(cell, SEED)
        cell = dataclasses.replace(cell, requests=len(setup.trace))
        outcome = replay(setup, parse_policy("fcfs"))
        if outcome.makespan_s <= LONGEST_S:
            return cell, float(outcome.preemptions.mean())
        cell = dataclasses.replace(cell, requests=int(cell.requests * min(0.95 * LONGEST_S / outcome.makespan_s, 0.9)))
    return None


def deal() -> list[Cell]:
    """All combinations, shuffled, then one of each workload in turn."""
    rng = np.random.default_rng(SEED)
    hands = []
    for name in (*MEASURED, *LENGTHS, *SYNTHETIC):
        combinations = list(itertools.product(ENGINES, LOADS))
        rng.shuffle(combinations)  # type: ignore[arg-type]
        hands.append([Cell(name, *engine, load, MOST_REQUESTS, "") for engine, load in combinations])
    return [cell for round_ in zip(*hands, strict=True) for cell in round_]


def main() -> None:
    """Draw until both kinds are full."""
    kept: list[Cell] = []
    wanted = {"bound": BOUND, "free": FREE}
    for cell in deal():
        if not any(wanted.values()):
            break
        found = cut(cell)
        if found is None:
            print(f"{cell.name}: too few requests end in time", flush=True)
            continue
        sized, frequency = found
        kind = "bound" if frequency >= BOUND_FREQUENCY else "free"
        print(f"{sized.name}: {sized.requests} requests, {frequency:.3f} preemptions per request", flush=True)
        if wanted[kind] > 0:
            wanted[kind] -= 1
            kept.append(dataclasses.replace(sized, kind=kind))
    kept += [found[0] for cell in STRESS if (found := cut(cell, FEWEST_STRESSED)) is not None]
    lines = ["# Frozen by `python -m experiments.freeze_cells` (seed 0). Do not edit.", ""]
    for cell in kept:
        lines.append("[[cell]]")
        for key, value in dataclasses.asdict(cell).items():
            lines.append(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}")
        lines.append("")
    FILE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
