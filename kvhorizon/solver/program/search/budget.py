"""How much a plan may cost: wall-clock seconds in service, work units where results must repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvhorizon.errors import InputError

MAX_SECONDS = 60.0
MAX_WORK = 1_000_000
FINISH = "finish"  # the part that ends every plan
FINISH_SHARE = (
    0.2  # of the budget kept for it at most: one that was slow once, to compile, keeps nothing from beginning
)
LONGER = 1.5  # how much slower than expected a part counts at most: one interruption is no new pace
CALMING = 0.8  # how slowly a part that was slow is trusted again
REFUSED = 0.5  # and how fast one that was too slow to be begun


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


class Pace:
    """How long each part of planning took lately, so that none is begun that would end late."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def expected_s(self, part: str) -> float:
        """Seconds that the part will take; 0 for one never measured."""
        return self._seconds.get(part, 0.0)

    def measured(self, part: str, seconds: float) -> None:
        """Learn from one run of the part: soon where it was slow, slowly where it was fast."""
        before = self._seconds.get(part, seconds)
        self._seconds[part] = max(min(seconds, LONGER * before), CALMING * before + (1.0 - CALMING) * seconds)

    def refused(self, part: str) -> None:
        """The part was not begun, for lack of time; it may have been slow for another reason than its own."""
        self._seconds[part] = REFUSED * self.expected_s(part)


class Spending:
    """What is left of a budget; counts work in either case."""

    def __init__(self, budget: Budget, clock: Callable[[], float], pace: Pace | None = None) -> None:
        self._budget, self._clock = budget, clock
        self._pace = Pace() if pace is None else pace
        seconds = budget.seconds or 0.0
        self._end_s = clock() + seconds - min(self._pace.expected_s(FINISH), FINISH_SHARE * seconds)
        self.work = 0

    def take(self, units: int) -> int:
        """Spend up to `units`; returns how many there were."""
        if self._budget.work is not None:
            units = min(units, self._budget.work - self.work)
        elif self.late:
            units = 0
        self.work += units
        return units

    def allows(self, *parts: str) -> bool:
        """Whether the parts, one after the other, are expected to end in time; always where only work counts."""
        left_s = self.left_s
        return left_s is None or (left_s > 0.0 and sum(map(self._pace.expected_s, parts)) <= left_s)

    def refused(self, *parts: str) -> None:
        """Say that the parts were not begun at all in this budget."""
        for part in parts:
            self._pace.refused(part)

    def timed(self, part: str, work: Callable[[], object]) -> None:
        """Do a part and learn how long it takes, where time counts."""
        if self._budget.seconds is None:
            work()
            return
        began_s = self._clock()
        work()
        self._pace.measured(part, self._clock() - began_s)

    @property
    def by_clock(self) -> bool:
        """Whether seconds count, not work."""
        return self._budget.seconds is not None

    @property
    def late(self) -> bool:
        """Whether the wall-clock budget has ended: answers that come now are discarded."""
        return self._budget.seconds is not None and self._clock() >= self._end_s

    @property
    def left_s(self) -> float | None:
        """Seconds left; None where only work counts."""
        return None if self._budget.seconds is None else self._end_s - self._clock()
