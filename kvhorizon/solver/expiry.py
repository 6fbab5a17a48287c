"""When a plan is asked for anew, and when it is too old to be followed: one rule for the simulated and the live engine.

A plan is as old as the state of the engine that it was made from. Solving, transport and waiting to be taken up all
count, whatever they take.
"""

from __future__ import annotations

from typing import NamedTuple

from kvhorizon.state import Plan

IDLE_TICK_S = 1.0  # a plan is asked for again after so long even if nothing happened: forecasts move on
PLAN_MAX_AGE_S = 2.0  # twice the longest pause between two plans while there is something to plan


class DatedPlan(NamedTuple):
    """A plan, and the time of the state that it was made from."""

    plan: Plan
    state_s: float  # `Snapshot.now_s`, on the engine's clock

    @property
    def expires_s(self) -> float:
        """The last moment at which the plan may be followed, on the same clock."""
        return self.state_s + PLAN_MAX_AGE_S
