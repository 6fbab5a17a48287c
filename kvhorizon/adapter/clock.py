"""The guest's own time: seconds since long before its start, and how long the engine's steps take."""

from __future__ import annotations

from collections.abc import Callable

from kvhorizon.adapter.intake import AGE_LIMIT_S

FIRST_STEP_S = 0.02
_STEP_WEIGHT = 0.1  # of the newest step in the mean of their duration
_LONGEST_STEP_S = 1.0


class StepClock:
    """It counts from `AGE_LIMIT_S` at the start, so that no arrival is negative. `step_s` is a moving mean."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """`clock` gives steady seconds, `wall` the time of day on which requests are stamped."""
        self.wall = wall
        self.step_s = FIRST_STEP_S
        self._clock, self._origin_s = clock, clock() - AGE_LIMIT_S
        self._last_s = 0.0

    def now(self) -> float:
        """Seconds on the guest's clock."""
        return self._clock() - self._origin_s

    def step(self, busy: bool) -> float:
        """A step begins, now; `busy`: the one before it ran requests."""
        now_s = self._clock() - self._origin_s
        last_s, self._last_s = self._last_s, now_s
        if busy and last_s > 0.0:
            gap_s = now_s - last_s
            gap_s = 0.0 if gap_s < 0.0 else _LONGEST_STEP_S if gap_s > _LONGEST_STEP_S else gap_s
            self.step_s += _STEP_WEIGHT * (gap_s - self.step_s)
        return now_s
