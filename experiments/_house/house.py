"""Is the house in order? Counts, over package, experiments, tests and documents, of what makes a project hard to read.

`python -m experiments.house --list NAME` prints the places behind a figure, one a line: of a count all of them, of a
largest size those beyond its target. What exactly counts is told by the functions of `experiments/_house/`. `--quick`
counts the same and keeps nothing.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments._house import blocks, documents, imports, quoted, shape, tuples, words
from experiments._house.tree import Finding, Tree
from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.errors import InputError

SEED = 0
ROOT = Path(__file__).resolve().parents[2]
MEASURES = ("kvhorizon", "experiments", "tests", "docs", "proto", "deploy")
Findings = list[Finding]


class Counter(NamedTuple):
    """What finds the places, how they make a figure, and the figure's target."""

    find: Callable[[Tree], Findings]
    figure: Callable[[Findings], float]
    limit: str


def largest(findings: Findings) -> int:
    """The largest size."""
    return max((one.value for one in findings), default=0)


def median(findings: Findings) -> float:
    """The size in the middle."""
    return statistics.median([one.value for one in findings] or [0])


COUNTERS = {
    "files_per_folder_max": Counter(shape.files_per_folder, largest, "<=14"),
    "file_lines_median": Counter(shape.file_lines, median, "<=110"),
    "function_lines_max": Counter(shape.function_lines, largest, "<=45"),
    "parameters_max": Counter(shape.parameters, largest, "<=8"),
    "import_cycles": Counter(imports.import_cycles, len, "<=0"),
    "tuple_indices": Counter(tuples.tuple_indices, len, "<=0"),
    "private_words": Counter(words.private_words, len, "<=0"),
    "dangling_symbols": Counter(documents.dangling_symbols, len, "<=0"),
    "duplicate_blocks": Counter(blocks.duplicate_blocks, len, "<=8"),
    "stale_results_quoted": Counter(quoted.stale_results_quoted, len, "<=0"),
}


def places(name: str, tree: Tree) -> list[str]:
    """Lines that say where a figure comes from, the largest first. Raises InputError for an unknown name."""
    if name not in COUNTERS:
        raise InputError("list", name, f"must be one of {', '.join(COUNTERS)}")
    counter = COUNTERS[name]
    found = counter.find(tree)
    if counter.figure is not len:
        found = sorted((one for one in found if one.value > float(counter.limit[2:])), key=lambda one: -one.value)
    return [f"{one.path}:{one.line}: {one.what}" if one.line else f"{one.path}: {one.what}" for one in found]


def measure(options: Options) -> tuple[Figures, Targets]:
    """All counters."""
    began_s = time.monotonic()
    tree = Tree(ROOT)
    values = {name: counter.figure(counter.find(tree)) for name, counter in COUNTERS.items()}
    targets = {name: target(value, COUNTERS[name].limit) for name, value in values.items()}
    return {
        "files": len(tree.python("kvhorizon", "experiments", "tests")),
        "seconds": time.monotonic() - began_s,
    }, targets


if __name__ == "__main__":
    if sys.argv[1:2] == ["--list"]:
        try:
            print("\n".join(places(" ".join(sys.argv[2:]), Tree(ROOT))))
        except InputError as error:
            print(error, file=sys.stderr)
            raise SystemExit(2) from None
    else:
        main("house", SEED, measure)
