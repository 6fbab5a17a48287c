"""Following the solver's plans in virtual time: when to ask, when an answer takes effect, who decided."""

from __future__ import annotations

import numpy as np

from kvhorizon.models.forecast import Forecast
from kvhorizon.sim.arrays import ARRIVED, DONE, NOW, PREEMPTED, RUNNING, WAITING, Engine
from kvhorizon.sim.setup import Setup, Solver
from kvhorizon.sim.snapshot import take_snapshot
from kvhorizon.solver.select import Desk
from kvhorizon.state import Habits, Plan, Source

IDLE_TICK_S = 1.0  # ask again after so long even if nothing happened: forecasts move on
STALE_S = 2.0  # a plan older than this is dropped


class PlanFollower:
    """Asks for plans, applies them, counts who decided.

    A tick is due every `setup.tick_s` of virtual time; it asks the solver only while requests wait, and only if one
    has arrived, finished or been preempted since, or `IDLE_TICK_S` have passed.
    """

    def __init__(self, setup: Setup, engine: Engine, forecast: Forecast, desk: Desk, solver: Solver | None) -> None:
        self.plans = {"program": 0, "greedy": 0, "local": 0, "native": 0, "stale": 0}
        self.due_s = 0.0
        self.habits = Habits()  # of the engine, as seen so far
        self._setup, self._engine, self._forecast, self._desk, self._solver = setup, engine, forecast, desk, solver
        self._pending: Plan | None = None
        self._applied_s = -np.inf
        self._asked_s = -np.inf
        self._seen = (-1, -1, -1)
        self._revision = 0

    def tick(self) -> None:
        """Apply the plan whose time has come, or ask for the next; sets `due_s`."""
        now_s = float(self._engine.clock[NOW])
        if self._pending is not None:
            self._apply(self._pending)
            self._pending = None
            self._applied_s = now_s
        elif now_s - self._applied_s > STALE_S and np.any(self._desk.rank):
            self._desk.rank[:] = 0
            self.plans["stale"] += 1
        if now_s < self._asked_s + self._setup.tick_s or not self._worth_asking(now_s):
            self.due_s = max(now_s, self._asked_s) + self._setup.tick_s
            return
        self._asked_s = now_s
        self._ask()
        self.due_s = now_s + (self._setup.delay_s if self._pending is not None else self._setup.tick_s)

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
        snapshot = take_snapshot(self._engine, self._forecast, self._desk, facts, self._revision, self.habits)
        plan = self._solver.plan(snapshot) if self._solver else None
        if plan is None:
            self.plans["local"] += 1
            self._desk.rank[:] = 0
        else:
            self.plans["program" if plan.source == Source.PROGRAM else "greedy"] += 1
            self._pending = plan

    def _apply(self, plan: Plan) -> None:
        """Give the requests that the plan admits now their places; the rest is left to the greedy rule."""
        rank = self._desk.rank
        rank[:] = 0
        now = plan.admissions[plan.admit_at_steps == 0.0].astype(np.int64)
        rank[now] = np.arange(1, len(now) + 1, dtype=np.int32)
