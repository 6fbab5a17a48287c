"""Decisions at the step, by the rules that the simulator and the service share: which request to admit, which to
preempt first.

Most steps need no decision, and say so cheaply: there is no seat, or no request waits; not even the smallest request
fits besides the least reserve; or a decision of "no request" still stands, since nothing has changed for the better: no
memory came free, and who came since does not fit either. And a long queue that had to be left waiting is looked at
again after a short rest, not in every step (decision 013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from kvhorizon.adapter.engine.column_store import Reals, columns_in, curves_in, scratch_in
from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.adapter.engine.step_demand import Demand
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.compiled.compiler import compiled
from kvhorizon.solver.heuristic.admission import choose_admissions, refresh_remaining, victim_row
from kvhorizon.solver.heuristic.columns import Int32Array, Room
from kvhorizon.solver.heuristic.footprint import blocks_to_take, own_tokens
from kvhorizon.solver.heuristic.order import oldest_place
from kvhorizon.solver.heuristic.out_of_order import CARE
from kvhorizon.solver.heuristic.params import Greedy, at_pace, growth_reserve, reserve_cap, varied
from kvhorizon.state import StepCost

STANDS_S = 0.1  # how long a decision of "no request" may stand while forecasts move on
REST_S, REST_STEPS = 0.05, 4.0  # at most, between two looks at a queue of which many had to be left waiting
MANY = 16  # so many
NO_TOKENS = 1 << 62  # of no request
NONE_FRESH = np.zeros(0, np.int32)
NO_LIMIT = 1 << 62  # where prompts come in chunks, how many begin in a step is vLLM's to say


class Choice(NamedTuple):
    """Slots to admit in order, which of them go before an older request, and what the quota's account is then."""

    slots: list[int]
    overtakes: list[bool]
    ledger: Reals | None = None  # (2,) as the first places of `Scratch.ledger`; None: as before


NO_REQUEST = Choice([], [])


class Rule:
    """The greedy of one engine. It is to be told whatever makes a request admissible, or no longer waiting."""

    def __init__(self, greedy: Greedy, cost: StepCost) -> None:
        self.greedy = self._at_one_token = greedy
        self.losing = cost  # of what an eviction throws away
        self.step_s = REST_S / REST_STEPS  # how long a step takes at the moment
        self.prefill_s_per_token = cost.linear_s_per_token  # by how much a token of prefill lengthens it
        self._stands_until_s = self._rests_until_s = -math.inf
        self._stands_at_free = 0
        self._smallest_tokens: int | None = None  # of all that wait; None: not known
        self._first_tokens = math.inf  # free memory with which a rest ends: then the first left waiting is sure to fit
        self.returning_tokens = 0.0  # KV of sessions between two turns, expected to be used again
        self._care = 1.0  # share of its reserves that the rule keeps at the moment
        self._newest_tokens = NO_TOKENS  # least of those that came since the decision that stands

    def use(self, z: float, tokens_per_step: float) -> None:
        """Deviations of a batch's peak to keep in reserve, and how many tokens a decode gains per step."""
        self.greedy = varied(at_pace(self._at_one_token, tokens_per_step), z=z)

    def changed(self) -> None:
        """A request was planned, or the forecasts moved."""
        self._stands_until_s = self._rests_until_s = -math.inf

    def reset(self) -> None:
        """The queue is another."""
        self.changed()
        self._smallest_tokens = None

    def arrived(self, tokens: int) -> None:
        """A request of so many tokens waits."""
        self._newest_tokens = min(self._newest_tokens, tokens)
        if self._smallest_tokens is not None:
            self._smallest_tokens = min(self._smallest_tokens, tokens)

    def evicted(self, tokens: int) -> None:
        """A running request waits again, with so many tokens. What it gave back the others are about to take: where
        order of arrival decides, a rest goes on."""
        rests_until_s = self._rests_until_s
        self.changed()
        if self.greedy.cached:
            self._rests_until_s = rests_until_s
        self.arrived(tokens)

    def left(self, tokens: int) -> None:
        """A request of so many tokens waits no longer, and perhaps larger ones."""
        if self._smallest_tokens is not None and tokens <= self._smallest_tokens:
            self._smallest_tokens = None

    def rests(self, engine: Engine, free: int, now_s: float) -> bool:
        """Whether a long queue rests still, with `free` blocks, whoever came meanwhile."""
        return now_s < self._rests_until_s and free * engine.block_size < self._first_tokens

    def stands(self, engine: Engine, free: int, now_s: float) -> bool:
        """Whether it is known already that `choose` would answer "no request" with `free` blocks, or may stand by
        it."""
        if self.rests(engine, free, now_s):
            return True
        size = engine.block_size
        spare = free * size - self._care * self.greedy.reserve.min_share * engine.total_blocks * size
        if now_s < self._stands_until_s and free <= self._stands_at_free and spare < self._newest_tokens:
            return True
        return self._smallest_tokens is not None and spare < self._smallest_tokens

    def infeasible(self, rows: Rows, engine: Engine, free: int, now_s: float) -> bool:
        """Likewise, with a look at those that wait where it is not known."""
        if self.stands(engine, free, now_s):
            return True
        if self._smallest_tokens is not None:
            return False
        slots = rows.waiting()
        if not len(slots):
            return True
        columns = rows.columns
        self._smallest_tokens = int((columns.prompt[slots] + columns.generated[slots] - columns.shared[slots]).min())
        return self.stands(engine, free, now_s)

    def choose(self, rows: Rows, engine: Engine, demand: Demand, candidates: Slots, now_s: float) -> Choice:
        """Admissions for this step, after the running requests took theirs; each fits by vLLM's own measure."""
        count, tokens = len(demand.slots), engine.token_budget - demand.total_tokens
        free, scratch, tables = engine.free_blocks, rows.scratch, rows.tables
        scratch.waiting[: len(candidates)] = candidates
        fresh = NONE_FRESH
        if rows.fresh:
            fresh, rows.fresh = np.array(rows.fresh, dtype=np.int32), []
        room = Room(
            free - demand.total_blocks - (engine.watermark_blocks if count else 0),
            demand.owed_blocks,
            engine.total_blocks,
            engine.block_size,
            min(engine.seats, len(scratch.result.chosen)),
            NO_LIMIT if engine.long_prefill > 0 and tokens > 0 else tokens,
            now_s,
            self.greedy.order.late_after_s,
            engine.total_blocks - free + demand.total_blocks,
            self.step_s,
            self.prefill_s_per_token,
            self.returning_tokens,
        )
        chosen, first_tokens = decide(
            rows.pool, tables.survival, tables.residual, self.greedy, demand.slots, len(candidates), fresh, room
        )
        self._care = float(scratch.ledger[CARE])
        if len(candidates) - chosen >= MANY:
            self._rests_until_s = now_s + min(REST_S, REST_STEPS * self.step_s)
            taken_blocks = demand.total_blocks + (engine.watermark_blocks if count else 0)  # as in this step
            self._first_tokens = first_tokens + taken_blocks * engine.block_size
        if chosen == 0:
            if tokens <= 0:  # next step has some again
                return NO_REQUEST
            self._stands_until_s, self._stands_at_free = now_s + STANDS_S, free
            self._newest_tokens = NO_TOKENS
            return NO_REQUEST
        overtakes = scratch.result.overtakes[:chosen].astype(bool).tolist()
        return Choice(scratch.result.chosen[:chosen].tolist(), overtakes, scratch.ledger[:CARE].copy())

    def victims(self, rows: Rows, demand: Demand, now_s: float) -> Iterator[int]:
        """Places in the running list, the best victim first, as many as are asked for."""
        tables, arrival_s = rows.tables, rows.columns.arrival_s[rows.waiting()]
        ages = Ages(now_s, max(now_s - float(arrival_s.min()), 0.0) if len(arrival_s) else 0.0)
        scores, rules = np.empty(len(demand.slots)), (self.greedy, self.losing)
        score_victims(rows.pool, tables.survival, tables.residual, *rules, demand.slots, ages, scores)
        return greatest_first(scores)


@compiled
def decide(pool, survival, residual, rule, running, num_waiting, fresh, room):  # type: ignore[no-untyped-def]
    """Predict the `fresh` waiting requests, then choose; returns how many were chosen, and the free memory [tokens] in
    which the first one left is sure to fit, where order of arrival decides; else inf.

    `pool` is a `Pool`, `survival` and `residual` are tables of curves, `room` is a `Room`.
    """
    columns = columns_in(pool.real, pool.whole, pool.marks)
    curves = curves_in(pool.real, pool.whole, survival, residual)
    scratch = scratch_in(pool.real, pool.whole, pool.sums, pool.chosen, pool.overtakes)
    refresh_remaining(columns, curves, fresh, len(fresh))
    chosen = choose_admissions(columns, curves, rule, running, len(running), room, scratch, num_waiting)
    if not rule.cached:
        return chosen, math.inf
    first = oldest_place(columns, scratch, num_waiting)
    if first < 0:
        return chosen, math.inf
    return chosen, sure_to_fit(columns, rule, scratch, scratch.waiting[first], len(running) + chosen, room)


@compiled
def sure_to_fit(columns, rule, scratch, n, ahead, room):  # type: ignore[no-untyped-def]
    """Free memory [tokens] in which the oldest waiting request n fits whatever is forecast, with so many running ahead
    of it: the greatest reserve that `leaves_reserve` asks of it, and its own blocks."""
    pool = float(room.total_blocks * room.block_size)
    cap = reserve_cap(rule, rule.budgeted, columns.remaining[n], columns.remaining[n])
    reserve = scratch.ledger[CARE] * max(
        cap * pool, rule.reserve.min_share * pool, growth_reserve(rule, ahead + 1, pool)
    )
    return max(own_tokens(columns, n) + reserve, float(blocks_to_take(columns, n, room.block_size) * room.block_size))


class Ages(NamedTuple):
    """The time, and for how long the oldest request has waited [s]."""

    now_s: float
    oldest_s: float


@compiled
def score_victims(pool, survival, residual, rule, cost, running, ages, scores):  # type: ignore[no-untyped-def]
    """Scores (R,) of the running requests as victims."""
    columns = columns_in(pool.real, pool.whole, pool.marks)
    curves = curves_in(pool.real, pool.whole, survival, residual)
    for i in range(len(running)):
        scores[i] = victim_row(columns, curves, rule, cost, running[i], ages.now_s, ages.oldest_s)


def greatest_first(scores: Reals) -> Iterator[int]:
    """Places of the (n,) scores, which are used up; of equals the first."""
    for _ in range(len(scores)):
        place = int(scores.argmax())
        scores[place] = -math.inf
        yield place


def move_to_tail(order: list[Any], places: list[int]) -> None:
    """Move the entries at `places` to the end of the list, the first of them last; the others keep their order."""
    moved = [order[place] for place in reversed(places)]
    for place in sorted(places, reverse=True):
        del order[place]
    order += moved


def enough_victims(engine: Engine, demand: Demand, ordered: Iterator[int], held: Int32Array) -> list[int]:
    """The first of the `ordered` places whose eviction covers what this step lacks; at most all but one.

    `held` (N,) are the blocks of each slot. The place after those is left to whoever asks `ordered` next.
    """
    lacking = demand.total_blocks - engine.free_blocks
    running = engine.scheduler.running
    chosen: list[int] = []
    while lacking > 0 and len(chosen) < len(running) - 1:
        place = next(ordered, None)
        if place is None:
            break
        blocks = int(held[demand.slots[place]])
        freed = engine.gives_back(running[place], blocks)
        if freed == 0 and blocks > 0:
            continue
        chosen.append(place)
        lacking -= freed + int(demand.blocks[place])
    return chosen
