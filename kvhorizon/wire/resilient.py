"""A solver child that may crash, hang or talk nonsense without its user noticing more than a missing plan."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from kvhorizon.errors import InputError
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.backoff import Backoff
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import GarbagePlan, SolverError, SolverLate, SolverRefused
from kvhorizon.wire.session import Session
from kvhorizon.wire.validate import check_plan_for


class ResilientSolver:
    """`plan(snapshot)` answers within `deadline_s` or with None, and never raises.

    `counts` says what happened: `planned`, `crashed`, `hung`, `garbage`, `refused` (the snapshot's own fault: the
    child stays), `absent` (asked while the child was being restarted), `restarts`, `failed_starts`. After a crash, a
    hang or garbage the child is replaced in the background, after a pause that doubles with each failure in a row.
    """

    def __init__(
        self,
        make_child: Callable[[], SolverChild] = SolverChild,
        deadline_s: float = 10.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`sleep` is the pause before a restart, an argument for tests."""
        self.counts: Counter[str] = Counter()
        self.child: SolverChild | None = None  # None while there is none to ask
        self._make_child = make_child
        self._deadline_s = deadline_s
        self._sleep = sleep
        self._backoff = Backoff()
        self._client: Client | None = None
        self._session: Session | None = None
        self._last_revision = -1
        self._lock = threading.Lock()  # over the child's coming and going
        self._stopped = False

    def start(self) -> None:
        """Start the child and wait until it serves; raises SolverUnavailable where it does not."""
        child = self._make_child()
        child.start()
        self._install(child)

    def plan(self, snapshot: Snapshot) -> Plan | None:
        """A plan for `snapshot`, or None. Revisions that begin anew begin a new session, with a fresh planner."""
        child = self.child
        if child is None:
            self.counts["absent"] += 1
            return None
        try:
            plan = self._session_for(snapshot).plan(snapshot, self._deadline_s)
            check_plan_for(plan, snapshot)
        except Exception as error:  # whatever it is, the engine goes on without this plan
            self._note(error, child)
            return None
        self.counts["planned"] += 1
        self._backoff.succeeded()
        return plan

    def stop(self) -> None:
        """End the child, and any restart under way."""
        with self._lock:
            self._stopped = True
            child, self.child = self.child, None
        self._close_session()
        if child is not None:
            child.stop()
        self._disconnect()

    def __enter__(self) -> "ResilientSolver":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _session_for(self, snapshot: Snapshot) -> Session:
        if self._session is None or snapshot.revision <= self._last_revision:
            self._close_session()
            if self._client is None:
                raise SolverError("no connection to the solver child")
            self._session = self._client.session()
        self._last_revision = snapshot.revision
        return self._session

    def _note(self, error: Exception, child: SolverChild) -> None:
        self._close_session()
        if isinstance(error, SolverRefused):
            self.counts["refused"] += 1
            return
        if isinstance(error, (GarbagePlan, InputError)):
            self.counts["garbage"] += 1
        else:
            self.counts["hung" if isinstance(error, SolverLate) else "crashed"] += 1
        self.child = None
        threading.Thread(target=self._replace, args=(child,), name="kvhorizon-restart", daemon=True).start()

    def _replace(self, broken: SolverChild) -> None:
        """Until a child serves or `stop` is called; runs on a thread of its own."""
        broken.kill()
        self._disconnect()
        while not self._stopped:
            self._sleep(self._backoff.failed())
            child = self._make_child()
            try:
                child.start()
            except Exception:  # whatever it is, there may be a child later
                self.counts["failed_starts"] += 1
                continue
            self.counts["restarts"] += 1
            self._install(child)
            return

    def _install(self, child: SolverChild) -> None:
        with self._lock:
            if not self._stopped:
                self._client = Client(child.address, self._deadline_s)
                self.child = child
                return
        child.stop()

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _disconnect(self) -> None:
        """Once there is no child any more: it may have stopped reading what closing waits for."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
