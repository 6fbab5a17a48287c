"""Compiled code of the simulator counts no references: that once took three quarters of its time, unseen by results."""

from pathlib import Path

from kvhorizon.models.compiled import COUNTED, UNCOUNTED
from kvhorizon.sim import advance, look, queue, step

SIM = Path(advance.__file__).parent
APART = {"alone.py"}  # not called in the loop


def test_only_one_place_says_how_the_simulator_is_compiled() -> None:
    asking = {path.name for path in SIM.rglob("*.py") if "numba" in path.read_text(encoding="utf-8")}
    assert asking == APART


def test_what_python_calls_counts_no_references() -> None:
    entries = [advance.advance, look.collect_waiting, queue.arrive, step.schedule_running, step.execute]
    assert all(entry.targetoptions["_nrt"] is False for entry in entries)


def test_only_what_makes_arrays_counts_them() -> None:
    assert COUNTED == {**UNCOUNTED, "_nrt": True}
