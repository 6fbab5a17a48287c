"""The solver service with moods: the real planner, unless the file that KVHORIZON_MOOD names says otherwise.

Run as `SolverChild(module="experiments.live.faults._live_planner")`. Moods: `slow`, `garbage`, `foreign`, `hungry`.
"""

from __future__ import annotations

import functools
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kvhorizon.service.main import main, planner_for
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.search.budget import Budget
from kvhorizon.state import Plan, Snapshot

MOOD = "KVHORIZON_MOOD"
SLOW_S = 3.0
_SWALLOW_BYTES = 64 * 2**20


class Moody:
    """A planner."""

    def __init__(self, knob: Knob) -> None:
        self._planner = planner_for(knob)
        self._swallowed: list[bytearray] = []

    def plan(self, snapshot: Snapshot, budget: Budget) -> Plan:
        """As the mood is at the moment."""
        mood = self._mood()
        if mood == "slow":
            time.sleep(SLOW_S)
        while mood == "hungry" and _limited():  # until memory ends
            self._swallowed.append(bytearray(b"x") * _SWALLOW_BYTES)
        plan = self._planner.plan(snapshot, budget)
        if mood == "foreign":
            return replace(plan, engine_epoch=plan.engine_epoch + 1)
        return garbled(plan, snapshot.revision) if mood == "garbage" else plan

    def refine(self, seconds: float) -> None:
        """Work ahead, whatever the mood."""
        self._planner.refine(seconds)

    @staticmethod
    def _mood() -> str:
        try:
            return Path(os.environ[MOOD]).read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def _limited() -> bool:
    """Whether memory ends anywhere but with the machine's: a child that was started since is left alone."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def garbled(plan: Plan, revision: int) -> Plan:
    """Nonsense of another kind each time; some of it is well-formed and only wrong."""
    strangers = np.arange(5, dtype=np.uint64) + np.uint64(10**12)
    kinds = (
        replace(plan, evictions=strangers),
        replace(plan, admissions=strangers, admit_at_steps=np.zeros(5)),
        replace(plan, admissions=plan.admissions[::-1].copy(), admit_at_steps=plan.admit_at_steps - 7.0),
        replace(plan, block_prices=np.full_like(plan.block_prices, np.nan)),
        replace(plan, admissions=np.repeat(plan.admissions, 2), admit_at_steps=np.repeat(plan.admit_at_steps, 2)),
    )
    return kinds[revision % len(kinds)]


if __name__ == "__main__":
    status = main(sys.argv[1:], functools.partial(Moody, Knob.BALANCED))
    sys.stdout.flush()
    os._exit(status)
