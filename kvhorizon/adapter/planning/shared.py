"""A solver service shared by several engines, by its address: reconnects by itself, and answers None meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.backoff import Backoff
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import SolverRefused
from kvhorizon.wire.session import Session
from kvhorizon.wire.tls import Tls
from kvhorizon.wire.validate import check_plan_for


class SharedSolver:
    """`counts`: `planned`, `refused`, `failed`, and `absent` while it waits to try again."""

    def __init__(
        self,
        address: str,
        tls: Tls | None = None,
        deadline_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises InputError for an address that is none."""
        self.counts: Counter[str] = Counter()
        self._address, self._tls = address, tls
        self._deadline_s = deadline_s
        self._clock = clock
        self._client: Client | None = Client(address, deadline_s, tls)
        self._session: Session | None = None
        self._backoff = Backoff()
        self._retry_at_s = 0.0

    def start(self) -> None:
        """Nothing to wait for: it may come later."""

    def plan(self, snapshot: Snapshot) -> Plan | None:
        """A plan within the deadline, or None; never raises."""
        if self._clock() < self._retry_at_s:
            self.counts["absent"] += 1
            return None
        try:
            plan = self._open().plan(snapshot, self._deadline_s)
            check_plan_for(plan, snapshot)
        except Exception as error:  # whatever it is, the engine goes on without this plan
            self._fail(error)
            return None
        self.counts["planned"] += 1
        self._backoff.succeeded()
        return plan

    def stop(self) -> None:
        """End the connection."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _open(self) -> Session:
        if self._client is None:
            self._client = Client(self._address, self._deadline_s, self._tls)
        if self._session is None:
            self._session = self._client.session()
        return self._session

    def _fail(self, error: Exception) -> None:
        """A new connection next time, and with it a full snapshot and certificates read anew.

        Who refuses is there, and the next process at the same address may have a place: it is asked again soon.
        """
        refused = isinstance(error, SolverRefused)
        self.counts["refused" if refused else "failed"] += 1
        self.stop()
        self._retry_at_s = self._clock() + self._backoff.failed()
        if refused:
            self._backoff.succeeded()
