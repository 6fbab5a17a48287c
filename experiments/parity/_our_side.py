"""The simulated engine, driven one step at a time as its scheduler's twin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

from experiments.parity._scenario import Scenario, Seen
from kvhorizon.sim.engine import execute, queue, step
from kvhorizon.sim.engine.arrays import (
    FREE,
    HEAD,
    NO_REQUEST,
    RUNNING,
    WAITING,
    Engine,
    Limits,
    new_columns,
    new_engine,
)
from kvhorizon.sim.engine.cache import FOUND, BlockCache, new_cache
from kvhorizon.state import StepCost

COST = StepCost(fixed_s=1e-3, weights_s=1e-2)


class Rules(NamedTuple):
    """The simulator's modules that are driven here, or mutants of them."""

    queue: ModuleType = queue
    step: ModuleType = step
    execute: ModuleType = execute


def _cache(scenario: Scenario) -> BlockCache | None:
    """An empty cache; contents are numbered by the chain of tokens that leads to them."""
    engine = scenario.engine
    if not engine.prefix_caching:
        return None
    size, known = engine.block_size, dict[tuple[int, bytes], int]()
    contents: list[int] = []
    start = [0]
    for tokens in scenario.tokens:
        chain = -1
        for at in range(0, len(tokens) // size * size, size):
            chain = known.setdefault((chain, tokens[at : at + size].tobytes()), len(known))
            contents.append(chain)
        start.append(len(contents))
    most = max(len(tokens) for tokens in scenario.tokens) // size + 1
    return new_cache(np.array(start), np.array(contents, np.int64), engine.total_blocks, engine.max_seqs, most)


@dataclass(slots=True)
class OurSide:
    """One scenario on the simulated engine."""

    engine: Engine
    rules: Rules

    @classmethod
    def start(cls, scenario: Scenario, rules: Rules = Rules()) -> OurSide:
        setup = scenario.engine
        limits = Limits(
            total_blocks=setup.total_blocks,
            block_size=setup.block_size,
            max_seqs=setup.max_seqs,
            max_tokens=setup.max_tokens,
            long_prefill_tokens=setup.long_prefill_tokens,
            chunked=setup.chunked,
            ahead=setup.ahead,
            watermark_blocks=math.floor(setup.watermark * (setup.total_blocks + 1)),
            free_recompute=False,
            by_priority=setup.by_priority,
            reload_s_per_token=0.0,
            concurrency=0,
        )
        size = len(scenario.prompt)
        columns = new_columns(
            np.arange(size, dtype=np.float64), scenario.prompt.astype(np.int32), scenario.limit.astype(np.int32)
        )
        priority = scenario.priority.astype(np.int32)
        return cls(new_engine(columns, scenario.output.astype(np.int32), limits, _cache(scenario), priority), rules)

    def add(self, n: int) -> None:
        """Request n arrives."""
        self.rules.queue.arrive(self.engine, n)

    def abort(self, n: int) -> None:
        """The client of request n goes."""
        self.rules.step.abort(self.engine, n)

    def schedule(self) -> Seen:
        """Decide one step; what it decided."""
        engine = self.engine
        budget, preempted = self.rules.step.schedule_running(engine)
        if not preempted:
            self.rules.step.admit_in_order(engine, budget)
        running = engine.lists.running[: engine.counters[RUNNING]].tolist()
        waiting = self._queue()
        return Seen(
            running=running,
            waiting=waiting,
            scheduled=engine.lists.scheduled[: len(running)].tolist(),
            blocks=engine.columns.blocks[running].tolist(),
            computed=engine.columns.computed[running].tolist(),
            free_blocks=int(engine.counters[FREE]),
            preemptions=engine.columns.preemptions[running].tolist(),
            outputs=engine.columns.generated[running + waiting].tolist(),
        )

    def _queue(self) -> list[int]:
        found = []
        n = self.engine.counters[HEAD]
        while n != NO_REQUEST:
            found.append(int(n))
            n = self.engine.live.newer[n]
        return found

    def execute(self) -> None:
        """Every scheduled token is computed; who is done leaves."""
        self.rules.execute.execute(self.engine, COST)

    @property
    def cached_tokens(self) -> int:
        """Tokens found in the prefix cache so far."""
        return int(self.engine.cache.marks[FOUND]) if self.engine.cache else 0

    @property
    def unfinished(self) -> bool:
        """Whether any request that arrived has not finished."""
        return bool(self.engine.counters[RUNNING] + self.engine.counters[WAITING])
