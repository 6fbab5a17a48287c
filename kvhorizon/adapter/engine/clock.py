"""The scheduler plugin's own time: seconds since long before its start, and how long the engine's steps take."""

from __future__ import annotations

from collections.abc import Callable

from kvhorizon.adapter.forecasting.intake import AGE_LIMIT_S
from kvhorizon.adapter.prefix_cache.prefill_price import PrefillPrice
from kvhorizon.models.performance.measured_steps import FIRST_STEP_S, STEP_WEIGHT

_LONGEST_STEP_S = 1.0


class StepClock:
    """It counts from `AGE_LIMIT_S` at the start, so that no arrival is negative. `step_s` is a moving mean."""

    def __init__(
        self, clock: Callable[[], float], wall: Callable[[], float], prefill: PrefillPrice, ahead: bool = False
    ) -> None:
        """`clock` gives steady seconds, `wall` the time of day on which requests are stamped.

        `ahead`: a step is scheduled while the one before it runs, so that its own time is the gap after the next.
        """
        self.wall = wall
        self.prefill = prefill
        self._ahead = ahead
        self._newest: int | None = None  # prefill tokens of the step scheduled last
        self._before: int | None = None  # of the one before it
        self.step_s = FIRST_STEP_S
        self._clock, self._origin_s = clock, clock() - AGE_LIMIT_S
        self._last_s = 0.0

    def now(self) -> float:
        """Seconds on the plugin's clock."""
        return self._clock() - self._origin_s

    def step(self, busy: bool) -> float:
        """A step begins, now; `busy`: the one before it ran requests."""
        now_s = self._clock() - self._origin_s
        last_s, self._last_s = self._last_s, now_s
        if busy and last_s > 0.0:
            gap_s = now_s - last_s
            gap_s = 0.0 if gap_s < 0.0 else _LONGEST_STEP_S if gap_s > _LONGEST_STEP_S else gap_s
            self.step_s += STEP_WEIGHT * (gap_s - self.step_s)
            ended = self._before if self._ahead else self._newest
            if ended is not None and gap_s < _LONGEST_STEP_S:
                self.prefill.see(gap_s, ended)
        self._before, self._newest = self._newest, None
        return now_s

    def ran(self, prefill_tokens: int) -> None:
        """A step of so many prefill tokens is scheduled."""
        self._newest = prefill_tokens
