"""The simulated engine, driven one step at a time as its scheduler's twin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from experiments._scenario import Scenario, Seen
from kvhorizon.sim import advance, arrays, queue, step
from kvhorizon.sim.arrays import FREE, HEAD, NOBODY, RUNNING, WAITING, Engine, Limits, new_columns, new_engine
from kvhorizon.state import StepCost

COST = StepCost(fixed_s=1e-3, weights_s=1e-2)


@dataclass(slots=True)
class OurSide:
    """One scenario on the simulated engine. `rules` is `sim.step`, or a mutant of it."""

    engine: Engine
    rules: ModuleType

    @classmethod
    def start(cls, scenario: Scenario, rules: ModuleType = step) -> OurSide:
        limits = Limits(
            total_blocks=scenario.total_blocks,
            block_size=scenario.block_size,
            max_seqs=scenario.max_seqs,
            max_tokens=scenario.max_tokens,
            long_prefill_tokens=scenario.long_prefill_tokens,
            chunked=scenario.chunked,
            watermark_blocks=math.floor(scenario.watermark * (scenario.total_blocks + 1)),
            free_recompute=False,
            concurrency=0,
        )
        size = len(scenario.prompt)
        columns = new_columns(
            np.arange(size, dtype=np.float64), scenario.prompt.astype(np.int32), np.full(size, 1 << 30, np.int32)
        )
        return cls(new_engine(columns, scenario.output.astype(np.int32), limits), rules)

    def add(self, n: int) -> None:
        """Request n arrives."""
        queue.push_back(self.engine, n)

    def schedule(self) -> Seen:
        """Decide one step; what it decided."""
        engine = self.engine
        budget, preempted = self.rules.schedule_running(engine)
        if not preempted:
            self._admit(budget)
        running = engine.lists.running[: engine.counters[RUNNING]].tolist()
        return Seen(
            running=running,
            waiting=self._queue(),
            scheduled=engine.lists.scheduled[: len(running)].tolist(),
            blocks=engine.columns.blocks[running].tolist(),
            free_blocks=int(engine.counters[FREE]),
            preemptions=engine.columns.preemptions[running].tolist(),
        )

    def _admit(self, budget: int) -> None:
        if self.rules is step:
            advance.admit_in_order(self.engine, budget)
            return
        counters = self.engine.counters
        while counters[WAITING] > 0 and self.rules.fits_now(self.engine, counters[HEAD], budget):
            budget = self.rules.admit(self.engine, counters[HEAD], budget)

    def _queue(self) -> list[int]:
        found = []
        n = self.engine.counters[HEAD]
        while n != NOBODY:
            found.append(int(n))
            n = self.engine.live.newer[n]
        return found

    def execute(self) -> None:
        """Every scheduled token is computed; who is done leaves."""
        self.rules.execute(self.engine, COST)

    @property
    def unfinished(self) -> bool:
        """Whether any request that arrived has not finished."""
        return bool(self.engine.counters[arrays.RUNNING] + self.engine.counters[WAITING])
