"""The time of an engine that is not there: all of vLLM and of the scheduler plugin reads it, and steps move it on.

What works beside the step in a live engine (learning, planning) works here in its turn, so that results repeat: the
learner at its own times, a plan at once in real time, to be seen `delay_s` later.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import vllm.v1.core.kv_cache_metrics
import vllm.v1.core.sched.scheduler
import vllm.v1.engine
import vllm.v1.metrics.stats
import vllm.v1.request

from kvhorizon.adapter.forecasting.learner import LEARN_S, Learner
from kvhorizon.adapter.planning.session import SolverLike
from kvhorizon.solver.expiry import DatedPlan
from kvhorizon.state import Plan, Snapshot

DELAY_S = 0.012  # from snapshot to plan: p90 of budget and transport, as in `kvhorizon.sim.setup`
START_S = 1_000_000.0  # vLLM takes some times as absent where they are 0
_READERS: tuple[Any, ...] = (
    vllm.v1.core.kv_cache_metrics,
    vllm.v1.core.sched.scheduler,
    vllm.v1.engine,
    vllm.v1.metrics.stats,
    vllm.v1.request,
)


class VirtualClock:
    """Seconds since the run began, in `now_s`; stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        """As of the module `time`."""
        return START_S + self.now_s

    monotonic = perf_counter = time

    def monotonic_ns(self) -> int:
        """As of the module `time`."""
        return int(self.time() * 1e9)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """vLLM reads this clock meanwhile."""
        real = [module.time for module in _READERS]
        for module in _READERS:
            module.time = self
        try:
            yield
        finally:
            for module, before in zip(_READERS, real, strict=True):
                module.time = before


class LockstepSession:
    """In place of the plugin's `PlanSession`: asks the solver at once, and shows its plan `delay_s` later."""

    def __init__(
        self,
        solver: SolverLike | None,
        clock: VirtualClock,
        prepare: Callable[[Plan], None] | None,
        delay_s: float = DELAY_S,
    ) -> None:
        self.newest: DatedPlan | None = None
        self.solver = solver
        self.replaced = self.failed_starts = self.errors = 0
        self.took_s = 0.0
        self.answered: bool | None = None
        self.asked = 0
        self._clock, self._prepare, self._delay_s = clock, prepare, delay_s
        self._coming: deque[tuple[float, DatedPlan]] = deque()

    def start(self) -> None:
        """The solver serves already."""

    def stop(self, timeout_s: float = 0.0) -> None:
        """The solver goes on, for the next run."""

    def offer(self, snapshot: Callable[[], Snapshot] | None) -> None:
        """See `PlanSession`."""
        if snapshot is None or self.solver is None:
            return
        state = snapshot()
        plan = self.solver.plan(state)
        self.asked += 1
        self.answered, self.took_s = plan is not None, self._delay_s
        if plan is not None:
            self._coming.append((self._clock.now_s + self._delay_s, DatedPlan(plan, state.now_s)))

    def deliver(self) -> None:
        """Before each step: the plans whose time has come."""
        while self._coming and self._coming[0][0] <= self._clock.now_s:
            _, newest = self._coming.popleft()
            if self._prepare is not None:
                self._prepare(newest.plan)
            self.newest = newest


def _learn_now(learner: Learner, now_s: float) -> None:
    if now_s >= learner.due_s:
        learner.due_s = now_s + LEARN_S
        learner.once(now_s)


def move_in(
    plugin: Any, clock: VirtualClock, solver: SolverLike | None, delay_s: float, cores: int
) -> LockstepSession | None:
    """Let the plugin of a scheduler live on this clock, as on a machine with so many `cores`; its session, if any.

    Without a solver a plugin that would have plans goes on as while its child starts.
    """
    plugin.use_clock(clock.monotonic, clock.time)
    plugin.learner.poke = functools.partial(_learn_now, plugin.learner)
    plugin.ticker._cores = cores
    if plugin.session is None:
        return None
    session = LockstepSession(solver, clock, lambda plan: plugin.plans.prepare(plan, plugin.rows), delay_s)
    plugin.session = session
    return session
