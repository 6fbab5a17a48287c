"""Following the solver's plans in virtual time: when to ask, when an answer takes effect, who decided."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import compiled
from kvhorizon.models.forecast.of_a_trace import Forecast
from kvhorizon.sim.engine.arrays import ARRIVED, DONE, FREE, NOW, PREEMPTED, RUNNING, WAITING, Engine
from kvhorizon.sim.engine.step import preempt
from kvhorizon.sim.setup import Setup, Solver
from kvhorizon.sim.snapshot import take_snapshot
from kvhorizon.solver.evictions import Asked, Gates, Pool, carried_out
from kvhorizon.solver.expiry import IDLE_TICK_S, DatedPlan
from kvhorizon.solver.heuristic.params import Greedy
from kvhorizon.solver.heuristic.scratch import Scratch
from kvhorizon.state import Habits, Plan, Source

IntArray = NDArray[np.int64]


class PlanFollower:
    """Asks for plans, applies them, counts who decided.

    A tick is due every `setup.tick_s` of virtual time; it asks the solver only while requests wait, and only if one
    has arrived, finished or been preempted since, or `IDLE_TICK_S` have passed. Whether the plan has expired
    (`solver.expiry`) is seen at ticks. Evictions of a plan are carried out
    where the engine reloads evicted KV from host memory, as the step's `rule` allows.
    """

    def __init__(
        self, setup: Setup, engine: Engine, forecast: Forecast, scratch: Scratch, solver: Solver | None, rule: Greedy
    ) -> None:
        self.plans = {"program": 0, "greedy": 0, "local": 0, "native": 0, "stale": 0}
        self.due_s = 0.0
        self.habits = Habits()  # of the engine, as seen so far
        self._setup, self._engine, self._forecast, self._scratch, self._solver = (
            setup,
            engine,
            forecast,
            scratch,
            solver,
        )
        self._pending: DatedPlan | None = None
        self._expires_s = np.inf  # of the plan in force
        self._asked_s = -np.inf
        self._seen = (-1, -1, -1)
        self._revision = 0
        self._rule = rule
        self._evicts = setup.reload_s_per_token > 0.0  # else an eviction costs more than it brings (decision 008)
        self._since_s = np.full(len(setup.trace), np.inf)  # when those who run were first seen running
        self._ran = np.zeros(0, np.int32)  # at the last look

    def tick(self) -> None:
        """Apply the plan whose time has come, or ask for the next; sets `due_s`."""
        now_s = float(self._engine.clock[NOW])
        if self._evicts:
            self._look(now_s)
        if self._pending is not None and now_s <= self._pending.expires_s:
            self._apply(self._pending.plan)
            self._expires_s = self._pending.expires_s
        elif self._pending is not None or now_s > self._expires_s:
            self.forget()
            self.plans["stale"] += 1
        self._pending = None
        if now_s < self._asked_s + self._setup.tick_s or not self._worth_asking(now_s):
            self.due_s = max(now_s, self._asked_s) + self._setup.tick_s
            return
        self._asked_s = now_s
        self._ask()
        self.due_s = now_s + (self._setup.delay_s if self._pending is not None else self._setup.tick_s)

    def forget(self) -> None:
        """Follow no plan: the last one expired, there is none, or the engine failed."""
        self._pending, self._expires_s = None, np.inf
        self._scratch.rank[:] = 0

    def _worth_asking(self, now_s: float) -> bool:
        count = self._engine.counters
        if count[WAITING] == 0 or count[RUNNING] == 0:
            return False
        seen = (int(count[ARRIVED]), int(count[DONE]), int(count[PREEMPTED]))
        if seen == self._seen and now_s - self._asked_s < IDLE_TICK_S:
            return False
        self._seen = seen
        return True

    def _ask(self) -> None:
        self._revision += 1
        facts = self._setup.facts
        snapshot = take_snapshot(self._engine, self._forecast, self._scratch, facts, self._revision, self.habits)
        plan = self._solver.plan(snapshot) if self._solver else None
        if plan is None:
            self.plans["local"] += 1
            self.forget()
        else:
            self.plans["program" if plan.source == Source.PROGRAM else "greedy"] += 1
            self._pending = DatedPlan(plan, snapshot.now_s)

    def _apply(self, plan: Plan) -> None:
        """Give the requests that the plan admits now their places; the rest is left to the greedy rule."""
        rank = self._scratch.rank
        rank[:] = 0
        now = plan.admissions[plan.admit_at_steps == 0.0].astype(np.int64)
        rank[now] = np.arange(1, len(now) + 1, dtype=np.int32)
        if self._evicts and len(plan.evictions):
            self._evict(plan.evictions.astype(np.int64))

    def _look(self, now_s: float) -> None:
        """Note who runs since when."""
        running = self._engine.lists.running[: int(self._engine.counters[RUNNING])]
        since_s = np.minimum(self._since_s[running], now_s)
        self._since_s[self._ran] = np.inf
        self._since_s[running] = since_s
        self._ran = running.copy()

    def _evict(self, wanted: IntArray) -> None:
        """Evictions that the plan asks for, within the gates of the plugin in vLLM."""
        engine, count = self._engine, self._engine.counters
        wanted = wanted[np.isin(wanted, self._ran)]
        resident_s = float(engine.clock[NOW]) - self._since_s[wanted]
        asked = Asked(wanted, resident_s, engine.columns.out_of_order[wanted])
        pool = Pool(int(count[FREE]), engine.limits.total_blocks, int(count[RUNNING]))
        for n in carried_out(asked, pool, self._rule, Gates()).tolist():
            evict(engine, n)
            self._scratch.rank[n] = 0


@compiled
def evict(engine, n):  # type: ignore[no-untyped-def]
    """Preempt request n between two steps, if it runs."""
    for place in range(engine.counters[RUNNING]):
        if engine.lists.running[place] == n:
            preempt(engine, place)
            return
