"""All runs of `defaults_virtual`: loads, step-time models and seeds, on processes that each have a solver child."""

from __future__ import annotations

import atexit
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

from experiments.live.defaults._defaults_loads import make_load

PROCESSES = 2
Result = TypeVar("Result")
_SOLVER: list[Any] = []  # of this process, for one run after the other


class Case(NamedTuple):
    """What every contender is put through."""

    load: str
    model: str  # of `_virtual_drive.MODELS`
    seed: int
    requests: int


class Found(NamedTuple):
    """Figures by contender."""

    case: Case
    rows: dict[str, dict[str, float]]


def run_all(one: Callable[[Case], Result], cases: Iterable[Case]) -> list[Result]:
    """What `one` returns, in the order of the cases."""
    processes = min(PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin) as pool:
        asked = [pool.submit(one, case) for case in cases]
        return [future.result() for future in asked]


def solver() -> Any:
    """The child of this process; None outside of `run_all`."""
    return _SOLVER[0] if _SOLVER else None


def all_contenders(case: Case) -> Found:
    """All contenders on one case, in this process."""
    from experiments.virtual._virtual_drive import CONTENDERS, MODELS, Drive
    from experiments.virtual._virtual_figures import figures

    rows = {}
    for name, contender in CONTENDERS.items():
        load = make_load(case.load, case.requests, case.seed)
        drive = Drive(load, contender, MODELS[case.model], solver())
        seen = drive.run()
        if len(seen) != load.requests:
            raise RuntimeError(f"{case}, {name}: {len(seen)} of {load.requests} requests were served")
        rows[name] = figures(seen, drive.totals)
    return Found(case, rows)


def _begin() -> None:
    """A child for this process, gone with it."""
    from experiments.virtual._virtual_drive import solver_child

    stack = ExitStack()
    _SOLVER.append(stack.enter_context(solver_child()))
    atexit.register(stack.close)
