"""The guest's hooks that only count. They have a guard of their own, and go on whatever becomes of the decisions."""

from __future__ import annotations

from typing import Any, Protocol

from kvhorizon.adapter.accounting import Accounting
from kvhorizon.adapter.control import Control
from kvhorizon.adapter.guard import Guard


class Observing(Protocol):
    """What is told of steps and evictions."""

    @property
    def watching(self) -> bool:
        """Whether this step is wanted, though it tells nothing new."""
        ...

    def preempting(self, request: Any) -> None:
        """The request is about to be evicted."""
        ...

    def scheduled(self, output: Any) -> None:
        """A step is scheduled and accounted for."""
        ...


class Telling(Protocol):
    """Makes the guest visible (`telemetry`)."""

    @property
    def observer(self) -> Observing:
        """The step's side."""
        ...

    def stop(self) -> None:
        """The guest leaves."""
        ...


class Accounts:
    """Of one guest, which is one of these."""

    def __init__(self, control: Control, accounting: Accounting) -> None:
        self.control, self.accounting, self.engine = control, accounting, control.engine
        self.account_guard = Guard("accounting")
        self.telemetry: Telling | None = None

    def account_preempting(self, request: Any) -> None:
        """Before the engine resets an evicted request."""
        if self.telemetry is not None:
            self.telemetry.observer.preempting(request)
        self._account("preempting", request)

    def account_scheduled(self, output: Any) -> None:
        """Before the engine moves scheduled requests on. Most steps have nothing to tell."""
        shown, accounting = self.control.shown, self.accounting
        behind = accounting.back if shown is not None and not shown else accounting.behind
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

    def _account(self, method: str, *args: Any) -> None:
        if self.account_guard.retired:
            return
        try:
            getattr(self.accounting, method)(*args)
            if self.account_guard.in_a_row:
                self.account_guard.succeeded()
        except Exception as error:
            self.account_guard.failed(method, error)
