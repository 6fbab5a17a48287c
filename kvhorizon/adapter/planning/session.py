"""The thread beside the step: it hands snapshots to a solver and keeps the newest plan.

The step only stores a snapshot and reads an attribute; it never waits for this thread, nor for what it waits for.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from kvhorizon.solver.expiry import DatedPlan
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.backoff import Backoff

logger = logging.getLogger(__name__)


class SolverLike(Protocol):
    """`wire.resilient.ResilientSolver`, or `adapter.planning.shared.SharedSolver`."""

    counts: Counter[str]

    def start(self) -> None:
        """Wait until it serves; raises where it does not."""
        ...

    def plan(self, snapshot: Snapshot) -> Plan | None:
        """A plan within a deadline, or None."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class PlanSession:
    """`offer` and `newest` are the step's side. Without a solver it does nothing."""

    def __init__(self, solver: SolverLike | None, prepare: Callable[[Plan], None] | None = None) -> None:
        """`prepare` is told of each plan, beside the step, before the step can see it."""
        self.newest: DatedPlan | None = None
        self.solver = solver
        self.replaced = 0  # snapshots that a newer one overtook
        self.failed_starts = 0
        self.errors = 0
        self.took_s = 0.0  # from the last snapshot to its plan, or to the answer that there is none
        self.answered: bool | None = None  # whether the last call brought a plan; None before the first
        self._prepare = prepare
        self._pending: Callable[[], Snapshot] | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvhorizon-planning", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()
        atexit.register(self.stop)

    def offer(self, snapshot: Callable[[], Snapshot] | None) -> None:
        """What makes the newest state; None: there is nothing to plan."""
        self.replaced += self._pending is not None
        self._pending = snapshot
        if snapshot is not None and not self._wake.qsize():  # else the thread has yet to see that there is one
            self._wake.put(None)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread and the solver. Stopping twice is fine."""
        atexit.unregister(self.stop)
        self._stopping.set()
        self._wake.put(None)
        if self.solver is not None:
            self.solver.stop()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            ready = self._start_solver()
            while not self._stopping.is_set():
                self._wake.get()
                self._once(ready)
        except Exception:
            logger.exception("kvhorizon planning ended; the rules beside the engine decide")

    def _once(self, ready: bool) -> None:
        """One snapshot; an error costs this plan only."""
        try:
            snapshot, self._pending = self._pending, None
            if ready and snapshot is not None and self.solver is not None and not self._stopping.is_set():
                begin_s = time.monotonic()
                state = snapshot()
                plan = self.solver.plan(state)
                self.took_s = time.monotonic() - begin_s
                self.answered = plan is not None
                if plan is not None:
                    if self._prepare is not None:
                        self._prepare(plan)
                    self.newest = DatedPlan(plan, state.now_s)
        except Exception:
            self.errors += 1
            if self.errors == 1:
                logger.exception("kvhorizon planning failed once")

    def _start_solver(self) -> bool:
        """Until it serves, or the session stops; a longer pause after each failure."""
        backoff = Backoff(1.0, 60.0)
        while self.solver is not None and not self._stopping.is_set():
            try:
                self.solver.start()
                return True
            except Exception as error:  # whatever it is, the engine serves without
                self.failed_starts += 1
                if self.failed_starts == 1:
                    logger.warning("kvhorizon has no solver yet: %s", error)
            self._stopping.wait(backoff.failed())
        return False
