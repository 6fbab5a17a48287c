"""Engines of one host share one child, and the next takes over when its owner goes."""

import os
from pathlib import Path
from typing import Any

import pytest
from test_adapter_session import wait_for

from kvhorizon.adapter.planning import host
from kvhorizon.adapter.planning.host import HostSolver, meeting_place
from kvhorizon.errors import InputError
from kvhorizon.wire.failures import SolverUnavailable


class Child:
    """Announces itself; never serves."""

    address = "unix:/nowhere/solver.sock"
    started = 0

    def __init__(self, place: Path, broken: bool = False) -> None:
        self.place, self.broken, self.pid = place, broken, 1

    def start(self) -> None:
        if self.broken:
            raise SolverUnavailable("planted")
        Child.started += 1
        self.place.write_text(self.address, encoding="utf-8")

    def stop(self) -> None: ...
    def kill(self) -> None: ...


def engine(folder: Path, clock: list[float], broken: bool = False) -> HostSolver:
    def make(place: Path) -> Any:
        return Child(place, broken)

    return HostSolver(folder, make, 0.2, lambda: clock[0])


def test_the_first_owns_the_child_and_the_next_inherits(tmp_path: Path) -> None:
    clock, Child.started = [0.0], 0
    first, second, third = (engine(tmp_path, clock) for _ in range(3))
    first.start()
    second.start()
    third.start()
    assert (first.owns, second.owns, third.owns) == (True, False, False)
    assert second._address == Child.address
    assert Child.started == 1
    first.stop()
    assert second.plan(None) is None  # type: ignore[arg-type]
    assert not second.owns  # it looks once a second
    clock[0] += host.LOOK_S
    second.plan(None)  # type: ignore[arg-type]
    third.plan(None)  # type: ignore[arg-type]
    assert (second.owns, third.owns) == (True, False)
    assert Child.started == 2
    for one in (second, third):
        one.stop()
        one.stop()


def test_a_child_that_does_not_start_leaves_the_place_to_others(tmp_path: Path) -> None:
    clock = [0.0]
    unlucky, other = engine(tmp_path, clock, broken=True), engine(tmp_path, clock)
    with pytest.raises(SolverUnavailable):
        unlucky.start()
    assert unlucky.plan(None) is None  # type: ignore[arg-type]
    clock[0] += host.LOOK_S
    assert unlucky.plan(None) is None  # type: ignore[arg-type]
    assert unlucky.counts["failed_starts"] == 1
    other.start()
    assert other.owns
    other.stop()
    unlucky.stop()


def test_stopped_while_starting_it_keeps_nothing(tmp_path: Path) -> None:
    clock = [0.0]
    late = engine(tmp_path, clock)
    late._stopped = True
    late.start()
    other = engine(tmp_path, clock)
    other.start()
    wait_for(lambda: other.owns)
    assert not late.owns
    other.stop()


def test_the_meeting_place_is_private(tmp_path: Path) -> None:
    place = meeting_place(["--knob", "means"], tmp_path)
    assert place == meeting_place(["--knob", "means"], tmp_path)
    assert place != meeting_place(["--knob", "strict"], tmp_path)
    assert place.stat().st_mode & 0o777 == 0o700
    os.chmod(place, 0o755)
    with pytest.raises(InputError, match="only its owner"):
        meeting_place(["--knob", "means"], tmp_path)
