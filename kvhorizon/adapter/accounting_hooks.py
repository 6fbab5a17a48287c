"""The scheduler plugin's hooks that only count. They have a guard of their own, and go on whatever becomes of the
decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kvhorizon.adapter.accounting.recomputation import Accounting
from kvhorizon.adapter.control.controller import Control
from kvhorizon.adapter.guard import Guard, guarded


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
    """Makes the plugin visible (`telemetry`)."""

    @property
    def observer(self) -> Observing:
        """The step's side."""
        ...

    def stop(self) -> None:
        """The scheduler plugin leaves."""
        ...


class Counting:
    """The exact accounting, an error in which harms no request."""

    def __init__(self, accounting: Accounting) -> None:
        self.guard = Guard("accounting")
        self._accounting = accounting

    @guarded
    def preempting(self, request: Any) -> None:
        """Before the engine resets an evicted request."""
        self._accounting.preempting(request)

    @guarded
    def scheduled(self, num_tokens: Mapping[str, int], requests: Mapping[str, Any], joined: list[str] | None) -> None:
        """Before the engine moves scheduled requests on; only those in `joined` may have come back, if it is known."""
        self._accounting.scheduled(num_tokens, requests, joined)

    @guarded
    def release(self, request: Any) -> None:
        """Before the engine forgets a request."""
        self._accounting.release(request)


class Accounts:
    """Of one plugin, which is one of these."""

    def __init__(self, control: Control, accounting: Accounting) -> None:
        self.control, self.accounting, self.engine = control, accounting, control.engine
        self._counting = Counting(accounting)
        self.account_guard = self._counting.guard
        self.telemetry: Telling | None = None

    def account_preempting(self, request: Any) -> None:
        """Before the engine resets an evicted request."""
        if self.telemetry is not None:
            self.telemetry.observer.preempting(request)
        self._counting.preempting(request)

    def account_scheduled(self, output: Any) -> None:
        """Before the engine moves scheduled requests on. Most steps have nothing to tell."""
        shown, accounting = self.control.shown, self.accounting
        behind = accounting.back if shown is not None and not shown else accounting.behind
        if behind:
            joined = None if shown is None else [request.request_id for request in shown]
            self._counting.scheduled(output.num_scheduled_tokens, self.engine.scheduler.requests, joined)
        if self.telemetry is not None:
            observer = self.telemetry.observer
            if behind or observer.watching or output.scheduled_new_reqs:
                observer.scheduled(output)

    def account_release(self, request: Any) -> None:
        """Before the engine forgets a request."""
        self._counting.release(request)
