"""Which waiting requests have a LoRA adapter that may run in this step.

vLLM skips a request whose adapter is not among `max_loras` that run; to choose it would keep memory for nothing. The
adapters of running requests have a place, and what is left of the limit goes to those of the requests that came first,
so that a place which comes free is not taken again by who came later. Where a request has waited for one longer than
`PATIENCE_S`, later ones with the adapter that fewest running requests use stay out until that adapter has drained.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.kinds.kinds import PATIENCE_S
from kvhorizon.compiled.compiler import compiled


class Adapters:
    """Of one engine with a limit of adapters."""

    def __init__(self, engine: Engine, rows: Rows) -> None:
        self._engine, self._rows = engine, rows
        self._seated: NDArray[np.int64] = np.zeros(max(engine.max_loras, 1), np.int64)
        self._users: NDArray[np.int64] = np.zeros(max(engine.max_loras, 1), np.int64)

    def admissible(self, candidates: Slots, running: Slots, now_s: float) -> Slots:
        """Those of the candidates (W,) whose adapter may run beside the `running` (R,), in the same order."""
        rows, engine = self._rows, self._engine
        held = [rows.slot_of[one.request_id] for one in engine.apart if one.request_id in rows.slot_of]
        if held:  # they go before all that wait in the queue
            running = np.concatenate([running, np.array(held, dtype=np.int32)])
        kept = np.empty(len(candidates), np.int32)
        order = Order(rows.columns.arrival_s, rows.extra.priority, engine.by_priority)
        places, before_s = (self._seated, self._users), now_s - PATIENCE_S
        count = may_run(rows.extra.adapter, order, running, candidates, before_s, *places, kept)
        return kept[:count]


class Order(NamedTuple):
    """vLLM's own order of the queue."""

    arrival_s: NDArray[np.float64]  # (N,)
    priority: NDArray[np.int64]  # (N,)
    by_priority: bool


@compiled
def goes_before(order, n, m):  # type: ignore[no-untyped-def]
    """Whether request n stands before m."""
    if order.by_priority and order.priority[n] != order.priority[m]:
        return order.priority[n] < order.priority[m]
    return order.arrival_s[n] < order.arrival_s[m]


@compiled
def place_of(seated, taken, adapter):  # type: ignore[no-untyped-def]
    """Where the adapter is among the first `taken` of the `seated`; -1: nowhere."""
    for place in range(taken):
        if seated[place] == adapter:
            return place
    return -1


@compiled
def first_without(adapter, order, waiting, seated, taken):  # type: ignore[no-untyped-def]
    """The first of the waiting, in vLLM's own order, whose adapter has no place; -1: each has one, or needs none."""
    first = -1
    for n in waiting:
        if adapter[n] == 0 or place_of(seated, taken, adapter[n]) >= 0:
            continue
        if first < 0 or goes_before(order, n, first):
            first = n
    return first


@compiled
def may_run(adapter, order, running, waiting, before_s, seated, users, kept):  # type: ignore[no-untyped-def]
    """Fill `kept` (W,) with those of the `waiting` (W,) slots whose adapter may run; returns how many.

    `seated` and `users` (L,) are scratch, one place for each adapter that may run at once.
    """
    limit, taken = len(seated), 0
    for n in running:
        if adapter[n] == 0:
            continue
        place = place_of(seated, taken, adapter[n])
        if place < 0 and taken < limit:
            place = taken
            seated[place], users[place] = adapter[n], 0
            taken += 1
        if place >= 0:
            users[place] += 1
    in_use = taken
    first = first_without(adapter, order, waiting, seated, taken)
    while first >= 0 and taken < limit:
        seated[taken] = adapter[first]
        taken += 1
        first = first_without(adapter, order, waiting, seated, taken)
    closed = -1
    if first >= 0 and order.arrival_s[first] < before_s and in_use > 0:
        closed = seated[users[:in_use].argmin()]
    count = 0
    for n in waiting:
        if adapter[n] != 0 and place_of(seated, taken, adapter[n]) < 0:
            continue
        if closed > 0 and adapter[n] == closed and goes_before(order, first, n):
            continue
        kept[count] = n
        count += 1
    return count
