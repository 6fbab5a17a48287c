"""Requests that are not chosen from: they pass in vLLM's own order, and what they are about to take is counted.

They are walked in that order. While one fits, its blocks are taken from those left for the choice, and it grows with
the batch from then on. Where one does not fit vLLM would end its look: only what came before it may still join. Where
the first request to be chosen from has waited longer than `PATIENCE_S`, those that came after it wait for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.adapter.engine.step_demand import Demand
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.kinds.kinds import PATIENCE_S, ready


class Beside(NamedTuple):
    """What the choice of a step has to do with."""

    demand: Demand  # of the running requests and those that pass
    candidates: Slots  # that may join
    passing: list[Any]  # that the engine is shown


def beside_passing(
    passing: list[Any], demand: Demand, candidates: Slots, rows: Rows, engine: Engine, now_s: float
) -> Beside:
    """Count the passing requests, in vLLM's own order, into the demand."""
    order = _Order(rows, engine.by_priority)
    first = order.first(candidates)
    overdue = now_s - float(rows.columns.arrival_s[first]) > PATIENCE_S
    left = engine.free_blocks - demand.total_blocks - demand.owed_blocks
    left -= engine.watermark_blocks if len(demand.slots) else 0
    slots: list[int] = []
    shown, blocks, tokens, fits = [], 0, 0, True
    for request in passing:
        slot = rows.slot_of[request.request_id]
        waits = bool(rows.extra.waits[slot]) and ready(request)
        if waits and overdue and order.before(first, slot):
            continue
        shown.append(request)
        if not (waits and fits):
            continue
        wanted = int(engine.blocks_of(np.int64(request.num_tokens)))  # type: ignore[arg-type]
        fits = wanted <= left - blocks
        if fits:
            slots.append(slot)
            blocks += wanted
            tokens += request.num_tokens if order.before(slot, first) else 0
        else:
            candidates = candidates[[order.before(n, slot) for n in candidates.tolist()]]
    counted = demand._replace(
        slots=np.concatenate([demand.slots, np.array(slots, dtype=np.int32)]),
        owed_blocks=demand.owed_blocks + blocks,
        total_tokens=demand.total_tokens + tokens,
    )
    return Beside(counted if slots else demand, candidates, shown)


class _Order:
    """vLLM's own: of arrival, of the most urgent first where priorities count."""

    def __init__(self, rows: Rows, by_priority: bool) -> None:
        self._arrival_s = rows.columns.arrival_s
        self._priority = rows.extra.priority if by_priority else np.zeros_like(rows.extra.priority)

    def before(self, n: int, m: int) -> bool:
        """Whether slot n stands before m."""
        return (self._priority[n], self._arrival_s[n]) < (self._priority[m], self._arrival_s[m])

    def first(self, slots: Slots) -> int:
        """Of at least one."""
        return int(slots[np.lexsort((self._arrival_s[slots], self._priority[slots]))[0]])
