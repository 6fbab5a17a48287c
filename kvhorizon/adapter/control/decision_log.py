"""A bounded log of decisions: what was done to which request, by which part, and why in one sentence."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

LIMIT = 4096
VICTIMS = 64  # newest decisions among which a victim of the step at hand is looked for


class Decision(NamedTuple):
    """One line of the log."""

    at_s: float  # on the plugin's clock
    step: int
    request_id: str
    what: str  # held, victim (to be the first to go, should blocks lack), evicted
    by: str  # program, greedy, local, vllm
    why: str  # with the alternatives and their prices
    times: int = 1  # decided so in a row, lately at `at_s`


class DecisionLog:
    """The newest `limit` decisions; one that repeats the last is counted in its place. `counts` is by action and
    actor."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._kept: deque[Decision] = deque(maxlen=limit)

    def note(self, decision: Decision) -> None:
        """Keep it; the oldest goes where the log is full."""
        self.counts[decision.what, decision.by] += 1
        last = self._kept[-1] if self._kept else None
        if last is not None and last.request_id == decision.request_id and last[3:5] == decision[3:5]:
            self._kept[-1] = decision._replace(times=last.times + 1)
        else:
            self._kept.append(decision)

    def carried_out(self, step: int, request_id: str) -> str | None:
        """The request is evicted: who chose it in this step; None where none of us did. A victim's entry says so."""
        for back in range(1, min(VICTIMS, len(self._kept)) + 1):
            decision = self._kept[-back]
            if decision.step != step:
                return None
            if decision.request_id == request_id and decision.what != "held":
                if decision.what == "victim":
                    self._kept[-back] = decision._replace(what="evicted")
                    self.counts["evicted", decision.by] += 1
                return decision.by
        return None

    def of(self, request_id: str) -> list[Decision]:
        """All that is known of one request, oldest first."""
        return [decision for decision in list(self._kept) if decision.request_id == request_id]

    def newest(self, count: int = 100) -> list[Decision]:
        """The last `count`, oldest first."""
        return list(self._kept)[-count:]

    def __len__(self) -> int:
        return len(self._kept)
