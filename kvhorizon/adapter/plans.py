"""Following the newest plan: its admissions go first, as long as it is fresh."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from kvhorizon.adapter.rows import Rows
from kvhorizon.state import Plan, Source

STALE_S = 2.0  # a plan that arrived longer ago is dropped


class PlanFollower:
    """`counts`: plans by who made them, and how many grew stale. `serial` changes with each plan taken up."""

    def __init__(self, epoch: int) -> None:
        self.counts: Counter[str] = Counter()
        self.plan: Plan | None = None
        self.serial = 0
        self._epoch = epoch
        self.last: Plan | None = None  # that was looked at
        self.stale_s = math.inf  # when the plan in force will be

    @property
    def fresh(self) -> bool:
        """Whether a plan is in force."""
        return self.plan is not None

    def look(self, newest: Plan | None, rows: Rows, now_s: float) -> bool:
        """Take up a new plan, or drop a stale one; True if either happened."""
        if newest is not None and newest is not self.last:
            self.last = newest
            return self._take(newest, rows, now_s)
        if now_s > self.stale_s:
            self.drop(rows)
            self.counts["stale"] += 1
            return True
        return False

    def drop(self, rows: Rows) -> None:
        """Follow no plan."""
        self.plan, self.stale_s = None, math.inf
        rows.desk.rank[:] = 0

    def _take(self, plan: Plan, rows: Rows, now_s: float) -> bool:
        if plan.engine_epoch != self._epoch:
            self.counts["foreign"] += 1
            return False
        slot_of, rank = rows.slot_of_handle, rows.desk.rank
        named = map(slot_of.get, plan.admissions[plan.admit_at_steps == 0.0].tolist())
        slots = np.array([slot for slot in named if slot is not None], dtype=np.int64)
        slots = slots[rows.extra.waits[slots]]
        rank[:] = 0
        rank[slots] = np.arange(1, len(slots) + 1)
        self.plan, self.stale_s = plan, now_s + STALE_S
        self.serial += 1
        self.counts["program" if plan.source == Source.PROGRAM else "greedy"] += 1
        return True

    def evictions(self, rows: Rows) -> list[int]:
        """Slots that the plan wants evicted and that still run."""
        if self.plan is None or len(self.plan.evictions) == 0:
            return []
        slots = (rows.slot_of_handle.get(handle) for handle in np.asarray(self.plan.evictions).tolist())
        return [slot for slot in slots if slot is not None and not rows.extra.waits[slot]]
