"""Tenants' shares in the simulated engine: the same factors as beside a live one, once per tick of virtual time."""

from __future__ import annotations

import numpy as np

from kvhorizon.models.shares import ledger_of
from kvhorizon.sim.arrays import NOW, RUNNING, Engine
from kvhorizon.sim.look import collect_waiting
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.select import Desk


class TenantShares:
    """Of one replay; `due_s` is when it wants to look again."""

    def __init__(self, setup: Setup, engine: Engine, desk: Desk) -> None:
        self._ledger = ledger_of(setup.trace.tenants, setup.classes)
        self._key, self._weight = setup.trace.key, engine.columns.weight.copy()
        self._engine, self._desk, self._tick_s = engine, desk, setup.tick_s
        self.due_s = 0.0

    def tick(self) -> None:
        """Bring all weights up to date, if it is time."""
        engine, now_s = self._engine, float(self._engine.clock[NOW])
        if now_s < self.due_s:
            return
        self.due_s = now_s + self._tick_s
        size, _ = collect_waiting(engine, self._desk.waiting)
        running = engine.lists.running[: int(engine.counters[RUNNING])]
        self._ledger.see(self._key[running], engine.columns.blocks[running], self._key[self._desk.waiting[:size]])
        np.multiply(self._weight, self._ledger.factor[self._key], out=engine.columns.weight)


def shares_of(setup: Setup, engine: Engine, desk: Desk) -> TenantShares | None:
    """None where no shares were agreed."""
    return TenantShares(setup, engine, desk) if setup.classes.tenants else None
