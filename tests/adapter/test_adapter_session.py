"""The thread beside the step: nothing that a solver does reaches the step but a plan."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from fakes import wait_for

from kvhorizon.adapter.guard import Guard
from kvhorizon.adapter.planning.session import PlanSession
from kvhorizon.adapter.planning.shared import SharedSolver
from kvhorizon.wire.failures import SolverError, SolverRefused, SolverUnavailable
from kvhorizon.wire.session import Session


class State(NamedTuple):
    """In a snapshot's place."""

    what: str
    now_s: float = 0.0


class Solver:
    """Answers by `answer`."""

    def __init__(self, answer: Callable[[Any], Any], failing_starts: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self.stopped = threading.Event()
        self._answer, self._failing = answer, failing_starts

    def start(self) -> None:
        if self._failing:
            self._failing -= 1
            raise OSError("not yet")

    def plan(self, snapshot: Any) -> Any:
        return self._answer(snapshot)

    def stop(self) -> None:
        self.stopped.set()


def test_the_newest_plan_is_kept_with_the_time_of_its_state_and_errors_cost_one_plan() -> None:
    def answer(snapshot: Any) -> Any:
        time.sleep(0.01)
        if snapshot.what == "bad":
            raise RuntimeError("planted")
        return None if snapshot.what == "none" else f"plan of {snapshot.what}"

    solver = Solver(answer)
    session = PlanSession(solver)
    session.start()
    assert session.answered is None
    session.offer(lambda: State("one", 7.0))  # type: ignore[arg-type]
    wait_for(lambda: session.newest == ("plan of one", 7.0))  # type: ignore[comparison-overlap]
    assert session.answered
    assert session.took_s >= 0.01
    session.offer(lambda: State("none"))  # type: ignore[arg-type]
    wait_for(lambda: session.answered is False)
    for worthless in ("bad", "none"):
        session.offer(lambda worthless=worthless: State(worthless))  # type: ignore[arg-type]
    session.offer(lambda: State("two", 8.0))  # type: ignore[arg-type]
    wait_for(lambda: session.newest == ("plan of two", 8.0))  # type: ignore[comparison-overlap]
    session.stop()
    assert solver.stopped.is_set()
    assert not session._thread.is_alive()
    session.stop()


def test_offers_never_wait_for_a_solver_that_hangs() -> None:
    release = threading.Event()
    session = PlanSession(Solver(lambda _: release.wait(20.0)))
    session.start()
    begin_s = time.monotonic()
    for number in range(1000):
        session.offer(lambda number=number: State(str(number)))  # type: ignore[arg-type]
    assert time.monotonic() - begin_s < 10.0
    assert session.replaced > 0
    release.set()
    session.stop()


def test_a_shared_solver_that_is_not_there_is_asked_again_later() -> None:
    now_s = [0.0]
    solver = SharedSolver("localhost:1", deadline_s=0.2, clock=lambda: now_s[0])
    solver.start()
    for _ in range(3):
        assert solver.plan(None) is None  # type: ignore[arg-type]
    assert solver.counts == {"failed": 1, "absent": 2}
    now_s[0] = 10.0
    assert solver.plan(None) is None  # type: ignore[arg-type]
    assert solver.counts["failed"] == 2
    solver.stop()


@pytest.mark.parametrize(("error", "asked"), [(SolverRefused("full"), 10), (SolverUnavailable("gone"), 4)])
def test_who_refuses_is_asked_again_soon_and_who_is_gone_ever_more_seldom(
    error: SolverError, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within five seconds: each half second, or after half a second, one, two and four."""
    monkeypatch.setattr(Session, "plan", lambda *_: (_ for _ in ()).throw(error))
    now_s = [0.0]
    solver = SharedSolver("localhost:1", deadline_s=0.2, clock=lambda: now_s[0])
    while now_s[0] < 5.0:
        assert solver.plan(None) is None  # type: ignore[arg-type]
        now_s[0] += 0.1
    assert solver.counts["refused"] + solver.counts["failed"] == pytest.approx(asked, abs=1)
    solver.stop()


def test_a_guard_retires_after_errors_in_a_row_only() -> None:
    guard = Guard("test", limit=3)
    for _ in range(5):
        guard.failed("hook", RuntimeError())
        guard.failed("hook", RuntimeError())
        guard.succeeded()
    assert not guard.retired
    for _ in range(3):
        guard.failed("hook", RuntimeError())
    assert guard.retired
    assert guard.total == 13
    guard.recall()
    assert not guard.retired
