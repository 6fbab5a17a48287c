"""Compiled code of the simulator counts no references: that once took three quarters of its time, unseen by results."""

from typing import Any

import numpy as np
from engines import facts, trace
from numba import njit

from kvhorizon.sim.policies import parse_policy
from kvhorizon.sim.replay import start
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.step import schedule_running

COUNTING = b"NRT_incref"  # the name of numba's counter


def object_code(function: Any) -> list[bytes]:
    """Machine code, with the names that it calls, of each signature a function was compiled for."""
    return [result.library.serialize_using_object_code()[2][0] for result in function.overloads.values()]


def test_scheduling_a_step_counts_no_references() -> None:
    engine, _ = start(Setup(trace([0.0], [20], [5]), facts()), parse_policy("fcfs"))
    schedule_running(engine)
    found = object_code(schedule_running)
    assert found
    assert all(b"schedule_running" in code and COUNTING not in code for code in found)


@njit(cache=True)
def rest(pair):  # type: ignore[no-untyped-def]
    """Plainly compiled code, which does count."""
    return pair[0][1:], pair[1][1:]


def test_counting_would_be_seen() -> None:
    rest((np.zeros(3), np.zeros(4)))
    assert all(COUNTING in code for code in object_code(rest))
