"""The planner without a wire: for replays that ask it so often that a child process would only cost time."""

from __future__ import annotations

from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.search.planner import Budget, Planner, PlannerSettings
from kvhorizon.solver.program.settings import Settings
from kvhorizon.state import Plan, Snapshot

WORK = 100  # units of the planner's budget: every part runs to its usual end


class InProcess:
    """A `Solver` that plans in this process, in work units, so that results repeat.

    `program` is the planner's model where it is not the knob's own. As over the wire, revisions that begin anew begin
    with a fresh planner.
    """

    def __init__(self, knob: Knob = Knob.BALANCED, work: int = WORK, program: Settings | None = None) -> None:
        self._settings, self._budget = PlannerSettings(program, knob), Budget(work=work)
        self._planner = self._fresh()
        self._last_revision = -1

    def plan(self, snapshot: Snapshot) -> Plan | None:
        """A plan for `snapshot`."""
        if snapshot.revision <= self._last_revision:
            self._planner = self._fresh()
        self._last_revision = snapshot.revision
        return self._planner.plan(snapshot, self._budget)

    def _fresh(self) -> Planner:
        return Planner(self._settings, lambda: 0.0)
