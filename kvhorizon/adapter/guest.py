"""The guest: what vLLM's scheduler calls before, during and after its own work. No call here ever raises.

Each step is decided on one rung of a ladder: `plan` (a fresh plan goes first), `local` (the rules beside the engine),
`native` (vLLM alone, by mode, pause, failure or retirement). `ladder` counts them.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec

from kvhorizon.adapter.accounting import Accounting
from kvhorizon.adapter.compat import Level
from kvhorizon.adapter.control import Control
from kvhorizon.adapter.forecast import Forecaster
from kvhorizon.adapter.guard import Guard
from kvhorizon.adapter.intake import Intake
from kvhorizon.adapter.learner import Learner
from kvhorizon.adapter.losing import Losing
from kvhorizon.adapter.modes import Mode, Switch
from kvhorizon.adapter.session import PlanSession
from kvhorizon.adapter.ticker import Ticker

P = ParamSpec("P")

AGE_LIMIT_S = 3600.0  # of a request when it reaches the scheduler; more is a clock gone wrong
_STEP_WEIGHT = 0.1  # of the newest step in the mean of their duration


def fail_open(hook: Callable[Concatenate[Guest, P], None]) -> Callable[Concatenate[Guest, P], None]:
    """A hook that never raises: an error is counted, nobody stays hidden, and the rows are read anew before use."""

    def guarded(self: Guest, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:  # whatever it is, requests go on being served
            self.control.stage.restore()
            self.stale = True
            self.failed_step = True
            self.ladder["native"] += hook.__name__ == "before_schedule"
            self.guard.failed(hook.__name__, error)

    functools.update_wrapper(guarded, hook)
    return guarded


class Guest:
    """Of one scheduler. The clock counts seconds from `AGE_LIMIT_S` at the start, so that no arrival is negative."""

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
        self.hints = self.intake.hints  # used, ignored
        self.advice: Counter[str] = Counter()  # agreed, admitted_instead, held_instead
        self.step_s = 0.02
        self.stale = False  # the rows may be wrong
        self.failed_step = False
        self.use_clock(clock, wall)
        self._last_s = 0.0
        self._leave_alone = False  # the last step ran idle although requests wait
        self._session_started = False

    @property
    def hidden(self) -> int:
        """Waiting requests that the engine does not see at the moment."""
        return self.control.stage.hidden

    def now(self) -> float:
        """Seconds on the guest's clock."""
        return self._clock() - self._origin_s

    def use_clock(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """Steady seconds, and the time of day on which requests are stamped."""
        self._clock, self._wall, self._origin_s = clock, wall, clock() - AGE_LIMIT_S

    @fail_open
    def before_schedule(self) -> None:
        """Decide, and present the queue."""
        now_s = self.now()
        self.failed_step = False
        self.control.step += 1
        self._time_step(now_s)
        self.mode = self.switch.mode(now_s)
        if self.stale and not self.guard.retired:
            self._rebuild(now_s)
        acts = self.mode in (Mode.ADVISE, Mode.CONTROL) and not self.guard.retired
        if not acts or self._leave_alone or self.engine.paused or self.control.level == Level.NONE:
            self._leave_alone = False
            self.ladder["native"] += 1
            return
        self._refresh(now_s)
        if self.mode is Mode.ADVISE:
            self.control.advise(now_s)
            self.ladder["native"] += 1
            return
        self.control.act(now_s, self.may_evict)
        self.ladder["plan" if self.plans.fresh else "local"] += 1

    def restore(self) -> None:
        """The queue is whole again, whatever happened."""
        self.control.stage.restore()

    @fail_open
    def after_schedule(self, total_tokens: int) -> None:
        """Note whom the engine has admitted; hand the state to the planner when it is time."""
        if self.stale or self.guard.retired:
            return
        now_s = self.now()
        scheduler = self.engine.scheduler
        taken = self._take(scheduler.running, now_s)
        self.control.batch.advanced(total_tokens, bool(taken))
        if self.mode is Mode.ADVISE:
            self._compare(taken)
        self._leave_alone = total_tokens == 0 and bool(scheduler.waiting) and not scheduler.running
        if self.mode is not Mode.OFF:
            self.learner.poke(now_s)
        if self.session is not None and self.mode in (Mode.ADVISE, Mode.CONTROL):
            if not self._session_started:
                self._session_started = True
                self.session.start()
            self.ticker.tick(self.session, self.control.batch, now_s, self.step_s)
        if not self.failed_step:
            self.guard.succeeded()

    @fail_open
    def added(self, request: Any) -> None:
        """The request came to the queue."""
        if not self.stale and not self.guard.retired:
            self._add(request)

    @fail_open
    def preempted(self, request: Any) -> None:
        """The request is back in the queue."""
        if not self.stale and not self.guard.retired:
            slot = self.rows.slot_of[request.request_id]
            self.control.batch.gone(slot)
            self.rows.wait(slot)
            self.ticker.event()
            self.rule.changed()

    @fail_open
    def released(self, request: Any) -> None:
        """The request is over."""
        rows = self.rows
        waiting = rows.num_waiting
        slot = rows.release(request.request_id)
        if slot is not None:
            self.intake.ended(slot, request)
            self.ticker.event()
            if rows.num_waiting != waiting:
                self.rule.left()
            else:
                self.control.batch.gone(slot)

    def account_preempting(self, request: Any) -> None:
        """Before the engine resets an evicted request."""
        self._account("preempting", request)

    def account_scheduled(self, num_tokens: Mapping[str, int]) -> None:
        """Before the engine moves scheduled requests on."""
        self._account("scheduled", num_tokens, self.engine.scheduler.requests)

    def account_release(self, request: Any) -> None:
        """Before the engine forgets a request."""
        self._account("release", request)

    def recall(self) -> None:
        """Back to work after a retirement."""
        self.stale = True
        self.guard.recall()
        self.account_guard.recall()

    def stop(self) -> None:
        """End the session and its solver, and the learning."""
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

    def _add(self, request: Any) -> None:
        if request.request_id in self.rows.slot_of:  # more input for one that is known
            return
        age_s = min(max(self._wall() - request.arrival_time, 0.0), AGE_LIMIT_S)
        self.intake.add(request, self.now() - age_s)
        self.ticker.event()
        self.rule.arrived(request.num_prompt_tokens)

    def _refresh(self, now_s: float) -> None:
        """Curves and plan as they are now."""
        if self.forecaster.tables is not self.rows.tables:
            self.rows.use_tables(self.forecaster.tables)
            self.rule.use_z(self.rows.tables.z)
            self.rule.losing = self.losing.cost(self.accounting.total)
            self.rule.changed()
        newest = self.session.newest if self.session is not None else None
        if self.plans.look(newest, self.rows, now_s):
            self.rule.changed()

    def _rebuild(self, now_s: float) -> None:
        """All rows from the engine's own requests, after an error or an absence."""
        rows = self.rows
        for name in list(rows.slot_of):
            rows.release(name)
        self.plans.drop(rows)
        for request in list(self.engine.scheduler.requests.values()):
            if not request.is_finished():
                self._add(request)
        for request in self.engine.scheduler.running:
            rows.take(rows.slot_of[request.request_id], now_s)
        self.rule.changed()
        self.control.batch.changed()
        self.stale = False

    def _take(self, running: list[Any], now_s: float) -> set[int]:
        """Slots of the newly admitted: the engine appends them to its list."""
        rows, taken = self.rows, set()
        for request in reversed(running):
            slot = rows.slot_of[request.request_id]
            if not rows.extra.waits[slot]:
                if rows.streaming:
                    continue
                break
            rows.take(slot, now_s)
            taken.add(slot)
        if taken:
            self.rule.left()
            self.control.joined()
            overtakes = dict(zip(self.control.choice.slots, self.control.choice.overtakes, strict=True))
            for slot in taken:
                rows.columns.overtaker[slot] = overtakes.get(slot, False) and self.mode is Mode.CONTROL
        return taken

    def _compare(self, taken: set[int]) -> None:
        advised = set(self.control.choice.slots)
        self.advice["agreed"] += len(taken & advised)
        self.advice["held_instead"] += len(taken - advised)
        self.advice["admitted_instead"] += len(advised - taken)

    def _time_step(self, now_s: float) -> None:
        if self.engine.scheduler.running and self._last_s > 0.0:
            self.step_s += _STEP_WEIGHT * (min(max(now_s - self._last_s, 0.0), 1.0) - self.step_s)
        self._last_s = now_s
