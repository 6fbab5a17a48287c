"""The scheduler plugin: what vLLM's scheduler calls before, during and after its own work. No call here ever raises.

Each step is decided on one source of a ladder: `plan` (a fresh plan goes first), `local` (the rules beside the engine),
`native` (vLLM alone, by mode, pause, failure or retirement). `ladder` counts them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kvhorizon.adapter.accounting.recomputation import Accounting
from kvhorizon.adapter.accounting_hooks import Accounts
from kvhorizon.adapter.compat import Level
from kvhorizon.adapter.control.admission_tracker import Admitted
from kvhorizon.adapter.control.controller import Control
from kvhorizon.adapter.control.preemption_cost import Losing
from kvhorizon.adapter.engine.clock import StepClock
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.intake import Intake
from kvhorizon.adapter.forecasting.learner import Learner
from kvhorizon.adapter.guard import Guard, fail_open
from kvhorizon.adapter.guardrail.guardrail import Guardrail
from kvhorizon.adapter.modes import Mode, Switch
from kvhorizon.adapter.planning.session import PlanSession
from kvhorizon.adapter.planning.ticker import Ticker
from kvhorizon.adapter.prefix_cache.prefill_price import PrefillPrice

ENTER_MOST = 256  # requests that get a row in a step; the rest of a flood stays hidden until then
ENTER_FEW = 16  # newcomers that may wait for their rows until all of them are read
_CONTROL, _ADVISE, _NONE = Mode.CONTROL, Mode.ADVISE, Level.NONE


class Parts(NamedTuple):
    """Of one plugin."""

    control: Control
    accounting: Accounting
    switch: Switch
    forecaster: Forecaster
    learner: Learner
    losing: Losing
    session: PlanSession | None
    ticker: Ticker


class Plugin(Accounts):
    """Of one scheduler."""

    def __init__(
        self,
        parts: Parts,
        may_evict: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        control, forecaster = parts.control, parts.forecaster
        super().__init__(control, parts.accounting)
        self.switch, self.forecaster, self.learner, self.losing = parts.switch, forecaster, parts.learner, parts.losing
        self.session, self.ticker, self.may_evict = parts.session, parts.ticker, may_evict
        self.rows, self.rule, self.plans = control.rows, control.rule, control.plans
        self.guard = Guard("scheduling")
        self.mode = Mode.OFF  # of this step
        self.ladder: Counter[str] = Counter()
        self.intake = Intake(self.engine, self.rows, forecaster)
        self.admitted = Admitted(control, self.intake)
        control.refused = self.intake.grammars.failed
        self.stale = False  # the rows may be wrong
        self.failed_step = False
        self.restore = control.stage.restore  # the queue is whole again, whatever happened
        self.use_clock(clock, wall)
        self.alone = True  # this step is vLLM's own
        self._now_s = 0.0  # at its beginning
        self._tell_s = 0.0  # when those beside the step want to be told
        self._leave_alone = False  # the last step ran idle although requests wait
        self.planning = False  # the session was begun

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
        """Seconds on the plugin's clock."""
        return self._clock.now()

    def use_clock(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """Steady seconds, and the time of day on which requests are stamped."""
        price = PrefillPrice(self.rule.prefill_s_per_token)
        self._clock = StepClock(clock, wall, price, self.engine.asynchronous)

    def failed(self, hook: str, error: Exception) -> None:
        """An error of ours: it is counted, no request stays hidden, and the rows are read anew before use."""
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
        now_s = self._now_s = self._clock.step(self.engine.scheduler.running)
        self.failed_step, self.alone, control.shown = False, True, None
        control.step += 1
        if switch.guardrail is not None:
            self._compare(switch.guardrail, now_s)
        mode = self.mode = switch.mode(now_s) if switch.watched or switch.killed else switch.chosen
        if self.stale and not self.guard.retired:
            self._rebuild(now_s)
        if self.intake.grammars.awaited:
            self._promote()
        acts = mode is _CONTROL or mode is _ADVISE
        if not acts or self._leave_alone or self.guard.retired or self.engine.paused or control.level is _NONE:
            self._leave_alone = False
            self._enter(now_s >= self.learner.due_s)
            self.ladder["native"] += 1
            return
        self._refresh(now_s)
        if not control.fast_path(now_s, self.may_evict):
            self._enter(True)
            if mode is _CONTROL:
                control.act(now_s, self.may_evict)
            else:
                control.advise(now_s)
        else:
            self._enter(now_s >= self.ticker.due_s)
            if mode is _CONTROL:
                control.hide()
        self.alone = mode is _ADVISE
        self.ladder["native" if self.alone else "local" if self.plans.plan is None else "plan"] += 1

    @fail_open
    def after_schedule(self, num_tokens: Mapping[str, int], total_tokens: int) -> None:
        """Note which requests the engine has admitted, and what it computes of each; hand the state to the planner when
        due."""
        if self.stale or self.guard.retired:
            return
        control, scheduler, now_s = self.control, self.engine.scheduler, self._now_s
        no_request = control.shown is not None and not control.shown
        taken = [] if no_request else self.admitted.take(scheduler.running, now_s, self.mode)
        control.batch.advanced(num_tokens, total_tokens, taken)
        control.note_prefills(num_tokens, taken)
        if self.rule.greedy.cached:
            self._clock.ran(total_tokens - len(num_tokens))
        self._leave_alone = total_tokens == 0 and bool(scheduler.waiting) and not scheduler.running
        if now_s >= self._tell_s:
            self._tell(now_s)
        if self.guard.in_a_row and not self.failed_step:
            self.guard.succeeded()

    @fail_open
    def added(self, request: Any) -> None:
        """The request came to the queue."""
        if self.stale or self.guard.retired:
            return
        if self.intake.add(request, self._clock.now(), self._clock.wall()):
            self.ticker.news = True
            self.control.sessions.came(request, self._clock.now())
            if request.request_id not in self.intake.grammars:
                self.rule.arrived(self.control.prefixes.own_tokens(request))

    @fail_open
    def preempted(self, request: Any) -> None:
        """The request is back in the queue."""
        if not self.stale and not self.guard.retired:
            slot = self.rows.slot_of[request.request_id]
            self.control.batch.gone(slot)
            self.control.prefixes.freed(slot, request)
            self.rows.wait(slot)
            self.ticker.news = True
            self.rule.evicted(self.rows.tokens(slot))

    @fail_open
    def released(self, request: Any) -> None:
        """The request is over."""
        rows = self.rows
        slot = rows.slot_of.get(request.request_id)
        if slot is None:
            self.control.sessions.gone(request)
            self.rule.left(self.control.prefixes.own_tokens(request))
            self.intake.left(request)
            return
        self.intake.ended(slot, request)
        self.ticker.news = True
        if rows.cells.waits[slot]:
            self.rule.left(rows.tokens(slot))
        else:
            self.control.batch.gone(slot)
            self.control.prefixes.freed(slot, request)
            self.control.sessions.ended(slot, request, self._clock.now())
        self.control.sessions.gone(request)
        rows.release(request.request_id)

    def recall(self) -> None:
        """Back to work after a retirement."""
        self.stale = True
        self.guard.recall()
        self.account_guard.recall()

    def stop(self) -> None:
        """End the learning, the session and its solver, and what makes the plugin visible."""
        if self.telemetry is not None:
            self.telemetry.stop()
        self.learner.stop()
        if self.session is not None:
            self.session.stop()

    def _compare(self, guardrail: Guardrail, now_s: float) -> None:
        """Control against vLLM alone, as long as it is counted what either does."""
        if self.account_guard.retired:
            guardrail.rest()
        else:
            guardrail.step_s = self._clock.step_s
            guardrail.step(now_s, self.mode)

    def _enter(self, due: bool) -> None:
        """Give newcomers their rows, if it is due or cannot wait."""
        intake = self.intake
        if intake.outside and (due or intake.urgent or intake.num_entering > ENTER_FEW):
            for slot in intake.enter(ENTER_MOST):
                self.rule.arrived(self.rows.tokens(slot))

    def _promote(self) -> None:
        """Requests whose grammar is ready are as if they came just now, but for their age."""
        for request in self.intake.grammars.settle():
            self.rule.arrived(self.control.prefixes.own_tokens(request))
            self.ticker.news = True

    def _tell(self, now_s: float) -> None:
        """Wake those who work beside the step, when it is time."""
        mode, ticker = self.mode, self.ticker
        if mode is not Mode.OFF:
            self.learner.poke(now_s)
        self._tell_s = self.learner.due_s
        if self.session is not None and (mode is _CONTROL or mode is _ADVISE):
            if not self.planning:
                self.planning = True
                self.session.start()
            if now_s >= ticker.due_s:
                ticker.tick(self.session, self.control.batch, now_s, self._clock.step_s, self.control.busy)
            self._tell_s = min(self._tell_s, ticker.due_s)

    def _refresh(self, now_s: float) -> None:
        """Curves, plan and pace as they are now."""
        self.rule.step_s = self._clock.step_s
        if self.rule.greedy.cached:
            self.rule.prefill_s_per_token = self._clock.prefill.seconds
        if self.forecaster.tables is not self.rows.tables:
            self.rows.use_tables(self.forecaster.tables)
            self.rule.use(self.rows.tables.z, self.rows.tables.tokens_per_step)
            self.losing.see(self.accounting.total, self._clock.prefill.seconds)
            self.rule.losing, self.accounting.cost = self.losing.cost(), self.losing.steps
            self.ticker.habits = self.losing.habits(self.rows.tables.tokens_per_step)
            self.rule.changed()
        newest, plans = self.session.newest if self.session is not None else None, self.plans
        if (newest is not plans.last or now_s > plans.expires_s) and plans.look(newest, self.rows, now_s):
            self.rule.changed()

    def _rebuild(self, now_s: float) -> None:
        """Begin anew with what the engine has."""
        self.intake.rebuild(now_s, self._clock.wall())
        self.plans.drop(self.rows)
        self.rule.reset()
        self.control.batch.changed()
        self.stale = False
