"""When to hand the engine's state to the planner."""

from __future__ import annotations

import functools

from kvhorizon.adapter.control.weights import Weights
from kvhorizon.adapter.engine.running_batch import Batch
from kvhorizon.adapter.engine.snapshot import snapshot_of, take_moment
from kvhorizon.adapter.planning.session import PlanSession
from kvhorizon.solver.expiry import IDLE_TICK_S
from kvhorizon.state import EngineFacts, Habits

TICK_S = 0.1
PATIENCE_S = 0.05  # how long a tick may wait for a step with little to do
PLANNING_SHARE = 0.02  # of the machine's cores, that plans may take (decision 015)


class Ticker:
    """A tick is due every `TICK_S`; it asks for a plan only while requests wait and others run, and only if something
    has happened since, or `IDLE_TICK_S` have passed. Where there are few `cores`, plans come less often, so that one
    core working on each for as long as the last one took is `PLANNING_SHARE` of them. What a tick costs is kept apart
    from what a decision costs. `habits` go with each snapshot."""

    def __init__(self, facts: EngineFacts, cores: int) -> None:
        self.revision = 0
        self.habits = Habits()
        self.weights: Weights | None = None  # to be kept up to date
        self._facts, self._cores = facts, cores
        self.due_s = 0.0
        self._asked_s = 0.0
        self.news = False  # a request came, ended or was evicted

    def tick(self, session: PlanSession, batch: Batch, now_s: float, step_s: float, busy: bool) -> None:
        """Offer the session a snapshot, if it is time; not in a `busy` step, unless it has waited long enough."""
        if now_s < self.due_s or (busy and now_s < self.due_s + PATIENCE_S):
            return
        self.due_s = now_s + TICK_S
        rows, engine = batch.rows, batch.engine
        competing = rows.num_waiting and engine.scheduler.running
        demand = batch.demand(scheduled=True) if self.weights is not None and competing else None
        if self.weights is not None and demand is not None:
            self.weights.refresh(demand.slots, now_s)
        if now_s - self._asked_s < (self._pause_s(session) if self.news else IDLE_TICK_S):
            return
        self.news, self._asked_s = False, now_s
        if not competing or session.solver is None:
            session.offer(None)
            return
        self.revision += 1
        if demand is None:
            demand = batch.demand(scheduled=True)
        moment = take_moment(rows, demand, engine.free_blocks, self.revision, now_s, step_s, self.habits)
        session.offer(functools.partial(snapshot_of, moment, self._facts))

    def _pause_s(self, session: PlanSession) -> float:
        """Between two plans at least."""
        return min(session.took_s / (PLANNING_SHARE * self._cores), IDLE_TICK_S)
