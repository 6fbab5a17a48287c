"""Weights in the simulated engine, as shares and promises make them: renewed once per tick of virtual time."""

from __future__ import annotations

import numpy as np

from kvhorizon.models.slo.tenant_shares import ledger_of
from kvhorizon.models.slo.urgency import NO_TARGET_S
from kvhorizon.sim.engine.arrays import NOW, RUNNING, Engine
from kvhorizon.sim.policies.view import collect_waiting
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.heuristic.scratch import Scratch
from kvhorizon.solver.weights import renew


class Weights:
    """Of one replay; `due_s` is when it wants to look again."""

    def __init__(self, setup: Setup, engine: Engine, scratch: Scratch) -> None:
        trace, classes = setup.trace, setup.classes
        self._ledger = ledger_of(trace.tenants, classes)
        self._key, self._weight = trace.key, engine.columns.weight.copy()
        promised = {name: one.ttft_s or NO_TARGET_S for name, one in classes.of.items()}
        names = trace.slo_class if trace.slo_class is not None else ("",) * len(trace)
        self._target_s = np.array([promised[classes.known(name)] for name in names])
        self._engine, self._scratch, self._tick_s = engine, scratch, setup.tick_s
        self.due_s = 0.0

    def tick(self) -> None:
        """Bring all weights up to date, if it is time."""
        engine, now_s = self._engine, float(self._engine.clock[NOW])
        if now_s < self.due_s:
            return
        self.due_s = now_s + self._tick_s
        size, _ = collect_waiting(engine, self._scratch.waiting)
        running, waiting = engine.lists.running[: int(engine.counters[RUNNING])], self._scratch.waiting[:size]
        renew(engine.columns, self._weight, self._key, self._target_s, self._ledger, running, waiting, now_s)


def weights_for(setup: Setup, engine: Engine, scratch: Scratch) -> Weights | None:
    """None where no shares were agreed and no first tokens promised."""
    return Weights(setup, engine, scratch) if setup.classes.tenants or setup.classes.urges else None
