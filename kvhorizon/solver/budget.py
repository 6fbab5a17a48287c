"""How much a plan may cost: wall-clock seconds in service, work units where results must repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvhorizon.errors import InputError

MAX_SECONDS = 60.0
MAX_WORK = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds, or work units; exactly one is given. Raises InputError.

    A work unit is one evaluation of the dual or one node of the core program; 100 let every part run to its usual end.
    """

    seconds: float | None = None
    work: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.work is None):
            raise InputError("budget", f"{self.seconds} s, {self.work} units", "must be either seconds or work units")
        if self.seconds is not None and not 0.0 < self.seconds <= MAX_SECONDS:
            raise InputError("budget.seconds", self.seconds, f"must be > 0 and <= {MAX_SECONDS:g}")
        if self.work is not None and not 0 <= self.work <= MAX_WORK:
            raise InputError("budget.work", self.work, f"must be within 0 ... {MAX_WORK}")


class Spending:
    """What is left of a budget; counts work in either case."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self._budget, self._clock = budget, clock
        self._end_s = clock() + (budget.seconds or 0.0)
        self.work = 0

    def take(self, units: int) -> int:
        """Spend up to `units`; returns how many there were."""
        if self._budget.work is not None:
            units = min(units, self._budget.work - self.work)
        elif self.late:
            units = 0
        self.work += units
        return units

    @property
    def late(self) -> bool:
        """Whether the wall-clock budget has ended: answers that come now are discarded."""
        return self._budget.seconds is not None and self._clock() >= self._end_s

    @property
    def left_s(self) -> float | None:
        """Seconds left; None where only work counts."""
        return None if self._budget.seconds is None else self._end_s - self._clock()
