"""Following the newest plan: its admissions go first, until it expires (`solver.expiry`)."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.compiled.compiler import compiled
from kvhorizon.solver.expiry import DatedPlan
from kvhorizon.state import Plan, Source

Handles = NDArray[np.uint64]


class _Prepared(NamedTuple):
    """A plan to come, and which requests it names: their handles and slots."""

    plan: Plan
    named: tuple[Handles, Slots]


class PlanFollower:
    """`counts`: plans taken up, by who made them, and plans dropped: expired (stale) or of another engine (foreign).

    `serial` changes with each plan taken up.
    """

    def __init__(self, epoch: int) -> None:
        self.counts: Counter[str] = Counter()
        self.plan: Plan | None = None
        self.serial = 0
        self._epoch = epoch
        self._prepared: _Prepared | None = None
        self.last: DatedPlan | None = None  # that was looked at
        self.expires_s = math.inf  # of the plan in force

    @property
    def fresh(self) -> bool:
        """Whether a plan is in force."""
        return self.plan is not None

    @property
    def evicts(self) -> bool:
        """Whether the plan in force names evictions."""
        return self.plan is not None and len(self.plan.evictions) > 0

    @property
    def source(self) -> str:
        """Who decides at the moment."""
        if self.plan is None:
            return "local"
        return "program" if self.plan.source == Source.PROGRAM else "greedy"

    def prepare(self, plan: Plan, rows: Rows) -> None:
        """Find out which requests a plan names, beside the step that is going to take it up."""
        self._prepared = _Prepared(plan, named_of(_now(plan), rows))

    def look(self, newest: DatedPlan | None, rows: Rows, now_s: float) -> bool:
        """Take up a new plan, or drop the one in force once it has expired; True if either happened."""
        taken = False
        if newest is not None and newest is not self.last:
            self.last = newest
            taken = self._take(newest, rows, now_s)
        if taken or now_s <= self.expires_s:
            return taken
        self.drop(rows)
        self.counts["stale"] += 1
        return True

    def drop(self, rows: Rows) -> None:
        """Follow no plan."""
        self.plan, self.expires_s = None, math.inf
        rows.scratch.rank[:] = 0

    def _take(self, newest: DatedPlan, rows: Rows, now_s: float) -> bool:
        """Follow the plan, unless it is another engine's or came too late."""
        plan = newest.plan
        if plan.engine_epoch != self._epoch:
            self.counts["foreign"] += 1
            return False
        if now_s > newest.expires_s:
            self.counts["stale"] += 1
            return False
        prepared = self._prepared
        known = prepared is not None and prepared.plan is plan
        handles, slots = prepared.named if prepared is not None and known else named_of(_now(plan), rows)
        rank_named(rows.scratch.rank, rows.extra.waits, rows.extra.handle, handles, slots)
        self.plan, self.expires_s = plan, newest.expires_s
        self.serial += 1
        self.counts["program" if plan.source == Source.PROGRAM else "greedy"] += 1
        return True

    def evictions(self, rows: Rows) -> list[int]:
        """Slots that the plan wants evicted and that still run."""
        if self.plan is None or not self.evicts:
            return []
        slots = (rows.slot_of_handle.get(handle) for handle in np.asarray(self.plan.evictions).tolist())
        return [slot for slot in slots if slot is not None and not rows.extra.waits[slot]]


def _now(plan: Plan) -> Handles:
    """Handles of those that the plan wants admitted now, in its order."""
    return np.asarray(plan.admissions[plan.admit_at_steps == 0.0], dtype=np.uint64)


def named_of(handles: Handles, rows: Rows) -> tuple[Handles, Slots]:
    """Handles, and the slots that they have at the moment; -1 of those that are over."""
    slot_of = rows.slot_of_handle
    return handles, np.array([slot_of.get(handle, -1) for handle in handles.tolist()], dtype=np.int32)


@compiled
def rank_named(rank, waits, handle, handles, slots):  # type: ignore[no-untyped-def]
    """Rank (N,) those of the `handles` (n,) that wait and still have their `slots` (n,) by their order, from 1."""
    rank[:] = 0
    place = 0
    for i in range(len(slots)):
        n = slots[i]
        if n >= 0 and waits[n] and handle[n] == handles[i]:
            place += 1
            rank[n] = place
