"""Compiled code counts no references: that once took three quarters of a replay's time, unseen by results."""

from pathlib import Path

from kvhorizon.adapter.control import step_policy as rule
from kvhorizon.adapter.engine import snapshot
from kvhorizon.adapter.engine import step_demand as demand
from kvhorizon.compiled.compiler import COUNTED, UNCOUNTED
from kvhorizon.sim.engine import advance, execute, queue, step
from kvhorizon.sim.policies import view as look
from kvhorizon.solver.heuristic import admission as select
from kvhorizon.solver.program import row_cache as arena
from kvhorizon.solver.program.search import construct as insert
from kvhorizon.solver.program.search import local_search as moves

PACKAGE = Path(advance.__file__).parents[2]


def test_only_one_place_says_how_anything_is_compiled() -> None:
    found = {path for path in PACKAGE.rglob("*.py") if "numba" in path.read_text(encoding="utf-8")}
    assert {path.parent for path in found} == {PACKAGE / "compiled"}


def test_what_python_calls_counts_no_references() -> None:
    simulated = [advance.advance, look.collect_waiting, queue.arrive, step.schedule_running, execute.execute]
    of_a_step = [rule.decide, rule.score_victims, select.choose_admissions, demand.share, snapshot.gather]
    of_a_plan = [arena.write_rows, insert.fits, insert.take, moves.cheapest, moves.move_singles, moves.move_pairs]
    entries = simulated + of_a_step + of_a_plan
    assert all(entry.targetoptions["_nrt"] is False for entry in entries)


def test_only_what_makes_arrays_counts_them() -> None:
    assert COUNTED == {**UNCOUNTED, "_nrt": True}
