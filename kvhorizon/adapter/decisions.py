"""A bounded log of decisions: what was done to whom, by whom, and why in one sentence."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LIMIT = 4096


class Decision(NamedTuple):
    """One line of the log."""

    at_s: float  # on the guest's clock
    step: int
    request_id: str
    what: str  # admitted, held, victim, evicted
    by: str  # program, greedy, local
    why: str


class DecisionLog:
    """The newest `limit` decisions."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._kept: deque[Decision] = deque(maxlen=limit)

    def note(self, decision: Decision) -> None:
        """Keep it; the oldest goes where the log is full."""
        self._kept.append(decision)

    def of(self, request_id: str) -> list[Decision]:
        """All that is known of one request, oldest first."""
        return [decision for decision in self._kept if decision.request_id == request_id]

    def newest(self, count: int = 100) -> list[Decision]:
        """The last `count`, oldest first."""
        return list(self._kept)[-count:]

    def __len__(self) -> int:
        return len(self._kept)
