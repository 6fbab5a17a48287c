"""Compiled code counts no references: that once took three quarters of a replay's time, unseen by results."""

from pathlib import Path

from kvhorizon.adapter import demand, rule, snapshot
from kvhorizon.models.compiled import COUNTED, UNCOUNTED
from kvhorizon.sim import advance, execute, look, queue, step
from kvhorizon.solver import arena, insert, moves, select

PACKAGE = Path(advance.__file__).parents[1]
COMPILING = {"compiled.py", "compiled_cache.py", "compiled_files.py", "compiled_folders.py"}


def test_only_one_place_says_how_anything_is_compiled() -> None:
    assert {path.name for path in PACKAGE.rglob("*.py") if "numba" in path.read_text(encoding="utf-8")} == COMPILING


def test_what_python_calls_counts_no_references() -> None:
    simulated = [advance.advance, look.collect_waiting, queue.arrive, step.schedule_running, execute.execute]
    of_a_step = [rule.decide, rule.score_victims, select.choose_admissions, demand.share, snapshot.gather]
    of_a_plan = [arena.write_rows, insert.fits, insert.take, moves.cheapest, moves.move_singles, moves.move_pairs]
    entries = simulated + of_a_step + of_a_plan
    assert all(entry.targetoptions["_nrt"] is False for entry in entries)


def test_only_what_makes_arrays_counts_them() -> None:
    assert COUNTED == {**UNCOUNTED, "_nrt": True}
