"""The guest: what vLLM's scheduler calls before, during and after its own work. No call here ever raises.

Each step is decided on one rung of a ladder: `plan` (a fresh plan goes first), `local` (the rules beside the engine),
`native` (vLLM alone, by mode, pause, failure or retirement). `ladder` counts them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from kvhorizon.adapter.accounting import Accounting
from kvhorizon.adapter.admitted import Admitted
from kvhorizon.adapter.clock import StepClock
from kvhorizon.adapter.compat import Level
from kvhorizon.adapter.control import Control
from kvhorizon.adapter.forecast import Forecaster
from kvhorizon.adapter.guard import Guard, fail_open
from kvhorizon.adapter.intake import Intake
from kvhorizon.adapter.learner import Learner
from kvhorizon.adapter.losing import Losing
from kvhorizon.adapter.modes import Mode, Switch
from kvhorizon.adapter.session import PlanSession
from kvhorizon.adapter.telemetry.telemetry import Telemetry
from kvhorizon.adapter.ticker import Ticker

ENTER_MOST = 256  # requests that get a row in a step; the rest of a flood stays hidden until then


class Guest:
    """Of one scheduler."""

    def __init__(
        self,
        control: Control,
        accounting: Accounting,
        switch: Switch,
        forecaster: Forecaster,
        learner: Learner,
        losing: Losing,
        session: PlanSession | None,
        ticker: Ticker,
        may_evict: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.control, self.accounting, self.switch, self.forecaster = control, accounting, switch, forecaster
        self.learner, self.losing = learner, losing
        self.session, self.ticker, self.may_evict = session, ticker, may_evict
        self.engine, self.rows, self.rule, self.plans = control.engine, control.rows, control.rule, control.plans
        self.guard = Guard("scheduling")
        self.account_guard = Guard("accounting")
        self.mode = Mode.OFF  # of this step
        self.ladder: Counter[str] = Counter()
        self.intake = Intake(self.engine, self.rows, forecaster)
        self.admitted = Admitted(control, self.intake)
        self.stale = False  # the rows may be wrong
        self.failed_step = False
        self.restore = control.stage.restore  # the queue is whole again, whatever happened
        self.use_clock(clock, wall)
        self.alone = True  # this step is vLLM's own
        self._now_s = 0.0  # at its beginning
        self._leave_alone = False  # the last step ran idle although requests wait
        self.planning = False  # the session was begun
        self.telemetry: Telemetry | None = None

    @property
    def hints(self) -> Counter[str]:
        """Clients' hints: used, ignored."""
        return self.intake.hints

    @property
    def advice(self) -> Counter[str]:
        """What was advised, against what the engine did."""
        return self.admitted.advice

    @property
    def hidden(self) -> int:
        """Waiting requests that the engine does not see at the moment."""
        return self.control.stage.hidden

    @property
    def step_s(self) -> float:
        """How long a step takes at the moment."""
        return self._clock.step_s

    def now(self) -> float:
        """Seconds on the guest's clock."""
        return self._clock.now()

    def use_clock(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """Steady seconds, and the time of day on which requests are stamped."""
        self._clock = StepClock(clock, wall)

    def failed(self, hook: str, error: Exception) -> None:
        """An error of ours: it is counted, nobody stays hidden, and the rows are read anew before use."""
        self.control.stage.restore()
        self.stale = True
        self.failed_step = self.alone = True
        self.control.shown = None
        self.ladder["native"] += hook == "before_schedule"
        self.guard.failed(hook, error)

    @fail_open
    def before_schedule(self) -> None:
        """Decide, and present the queue."""
        control, switch = self.control, self.switch
        now_s = self._now_s = self._clock.step(bool(self.engine.scheduler.running))
        self.failed_step, control.shown = False, None
        self.alone = True
        control.step += 1
        mode = self.mode = switch.mode(now_s) if switch.watched or switch.killed else switch.chosen
        if self.stale and not self.guard.retired:
            self._rebuild(now_s)
        for slot in self.intake.enter(ENTER_MOST) if self.intake.outside else ():
            self.rule.arrived(self.rows.tokens(slot))
        acts = (mode is Mode.CONTROL or mode is Mode.ADVISE) and not self.guard.retired
        if not acts or self._leave_alone or self.engine.paused or control.level == Level.NONE:
            self._leave_alone = False
            self.ladder["native"] += 1
            return
        self._refresh(now_s)
        if mode is Mode.ADVISE:
            control.advise(now_s)
            self.ladder["native"] += 1
            return
        control.act(now_s, self.may_evict)
        self.alone = False
        self.ladder["local" if self.plans.plan is None else "plan"] += 1

    @fail_open
    def after_schedule(self, num_tokens: Mapping[str, int], total_tokens: int) -> None:
        """Note whom the engine has admitted, and what it computes of each; hand the state to the planner when due."""
        if self.stale or self.guard.retired:
            return
        control, scheduler, mode, now_s = self.control, self.engine.scheduler, self.mode, self._now_s
        taken = [] if control.shown == [] else self.admitted.take(scheduler.running, now_s, mode)
        control.batch.advanced(num_tokens, total_tokens, taken)
        self._leave_alone = total_tokens == 0 and bool(scheduler.waiting) and not scheduler.running
        if mode is not Mode.OFF:
            self.learner.poke(now_s)
        if self.session is not None and (mode is Mode.CONTROL or mode is Mode.ADVISE):
            if not self.planning:
                self.planning = True
                self.session.start()
            if now_s >= self.ticker.due_s:
                self.ticker.tick(self.session, control.batch, now_s, self._clock.step_s, control.busy)
        if self.guard.in_a_row and not self.failed_step:
            self.guard.succeeded()

    @fail_open
    def added(self, request: Any) -> None:
        """The request came to the queue."""
        if self.stale or self.guard.retired:
            return
        if self.intake.add(request, self._clock.now(), self._clock.wall()):
            self.ticker.event()

    @fail_open
    def preempted(self, request: Any) -> None:
        """The request is back in the queue."""
        if not self.stale and not self.guard.retired:
            slot = self.rows.slot_of[request.request_id]
            self.control.batch.gone(slot)
            self.rows.wait(slot)
            self.ticker.event()
            self.rule.changed()
            self.rule.arrived(self.rows.tokens(slot))

    @fail_open
    def released(self, request: Any) -> None:
        """The request is over."""
        rows = self.rows
        self.intake.left(request)
        slot = rows.slot_of.get(request.request_id)
        if slot is None:
            return
        self.intake.ended(slot, request)
        self.ticker.event()
        if rows.extra.waits[slot]:
            self.rule.left(rows.tokens(slot))
        else:
            self.control.batch.gone(slot)
        rows.release(request.request_id)

    def account_preempting(self, request: Any) -> None:
        """Before the engine resets an evicted request."""
        if self.telemetry is not None:
            self.telemetry.observer.preempting(request)
        self._account("preempting", request)

    def account_scheduled(self, output: Any) -> None:
        """Before the engine moves scheduled requests on. Most steps have nothing to tell."""
        shown, accounting = self.control.shown, self.accounting
        behind = bool(accounting.back if shown == [] else accounting.behind)
        if behind:
            joined = None if shown is None else [request.request_id for request in shown]
            self._account("scheduled", output.num_scheduled_tokens, self.engine.scheduler.requests, joined)
        if self.telemetry is not None:
            observer = self.telemetry.observer
            if behind or observer.watching or output.scheduled_new_reqs:
                observer.scheduled(output)

    def account_release(self, request: Any) -> None:
        """Before the engine forgets a request."""
        self._account("release", request)

    def recall(self) -> None:
        """Back to work after a retirement."""
        self.stale = True
        self.guard.recall()
        self.account_guard.recall()

    def stop(self) -> None:
        """End the learning, the session and its solver, and what makes the guest visible."""
        if self.telemetry is not None:
            self.telemetry.stop()
        self.learner.stop()
        if self.session is not None:
            self.session.stop()

    def _account(self, method: str, *args: Any) -> None:
        if self.account_guard.retired:
            return
        try:
            getattr(self.accounting, method)(*args)
            self.account_guard.succeeded()
        except Exception as error:
            self.account_guard.failed(method, error)

    def _refresh(self, now_s: float) -> None:
        """Curves and plan as they are now."""
        if self.forecaster.tables is not self.rows.tables:
            self.rows.use_tables(self.forecaster.tables)
            self.rule.use_z(self.rows.tables.z)
            self.losing.see(self.accounting.total)
            self.rule.losing = self.losing.cost()
            self.ticker.habits = self.losing.habits(self.rows.tables.tokens_per_step)
            self.rule.changed()
        newest, plans = self.session.newest if self.session is not None else None, self.plans
        if (newest is not plans.last or now_s > plans.stale_s) and plans.look(newest, self.rows, now_s):
            self.rule.changed()

    def _rebuild(self, now_s: float) -> None:
        """Begin anew with what the engine has."""
        self.intake.rebuild(now_s, self._clock.wall())
        self.plans.drop(self.rows)
        self.rule.reset()
        self.control.batch.changed()
        self.stale = False
