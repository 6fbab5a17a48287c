"""Decisions at the step, by the rules that the simulator and the service share: whom to admit, whom to give up first.

Most steps need no decision, and say so cheaply: there is no seat, or nobody waits; not even the smallest request fits
besides the least reserve; or a decision of "nobody" still stands, since nothing has changed for the better.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from kvhorizon.adapter.batch import Demand
from kvhorizon.adapter.engine import Engine
from kvhorizon.adapter.forecast import Tables
from kvhorizon.adapter.rows import Rows, Slots
from kvhorizon.models.step_time import recompute_seconds
from kvhorizon.models.survival import mean_remaining
from kvhorizon.solver.columns import Room
from kvhorizon.solver.greedy import Greedy, victim_score
from kvhorizon.solver.select import choose_admissions, refresh_remaining
from kvhorizon.state import FloatArray, StepCost

STANDS_S = 0.1  # how long a decision of "nobody" may stand while forecasts move on


class Choice(NamedTuple):
    """Slots to admit in order, and which of them go before an older request."""

    slots: list[int]
    overtakes: list[bool]


NOBODY = Choice([], [])


class Rule:
    """The greedy of one engine. `changed` is to be called when something new might be admissible."""

    def __init__(self, greedy: Greedy, cost: StepCost) -> None:
        self.greedy = greedy
        self.losing = cost  # of what an eviction throws away
        self._stands_until_s = -math.inf
        self._stands_at_free = 0
        self._smallest_tokens = 0
        self._smallest_known = False

    def use_z(self, z: float) -> None:
        """Deviations of a batch's peak to keep in reserve."""
        if z != self.greedy.z:
            self.greedy = self.greedy._replace(z=z)

    def changed(self) -> None:
        """Somebody was evicted or planned, or the forecasts moved."""
        self._stands_until_s = -math.inf
        self._smallest_known = False

    def arrived(self, tokens: int) -> None:
        """A request of so many tokens waits."""
        self._stands_until_s = -math.inf
        self._smallest_tokens = min(self._smallest_tokens, tokens)

    def left(self) -> None:
        """A request waits no longer."""
        self._smallest_known = False

    def hopeless(self, rows: Rows, engine: Engine, now_s: float) -> bool:
        """Whether `choose` is sure to answer "nobody", at the cost of a glance."""
        free = engine.free_blocks
        if now_s < self._stands_until_s and free <= self._stands_at_free:
            return True
        if not self._smallest_known:
            slots = rows.waiting()
            self._smallest_tokens = int((rows.columns.prompt[slots] + rows.columns.generated[slots]).min())
            self._smallest_known = True
        size = engine.block_size
        spare = free * size - self._smallest_tokens
        return spare < self.greedy.reserve_min_share * engine.total_blocks * size

    def choose(self, rows: Rows, engine: Engine, demand: Demand, candidates: Slots, now_s: float) -> Choice:
        """Admissions for this step, after the running requests took theirs; each fits by vLLM's own measure."""
        predict(rows)
        running, count = demand.slots, len(demand.slots)
        room = Room(
            free_blocks=engine.free_blocks - demand.total_blocks - (engine.watermark_blocks if count else 0),
            owed_blocks=demand.owed_blocks,
            total_blocks=engine.total_blocks,
            block_size=engine.block_size,
            seats=min(engine.seats, len(rows.desk.chosen)),
            token_budget=engine.token_budget - int(demand.tokens.sum()),
            now_s=now_s,
        )
        desk = rows.desk
        desk.waiting[: len(candidates)] = candidates
        chosen = choose_admissions(rows.columns, rows.curves, self.greedy, running, count, room, desk, len(candidates))
        if chosen == 0:
            if room.token_budget <= 0:  # next step has one again
                return NOBODY
            self._stands_until_s, self._stands_at_free = now_s + STANDS_S, engine.free_blocks
            return NOBODY
        return Choice(desk.chosen[:chosen].tolist(), desk.overtakes[:chosen].astype(bool).tolist())

    def victims(self, rows: Rows, demand: Demand, now_s: float) -> list[int]:
        """Places in the running list, the best victim first."""
        waiting = rows.waiting()
        oldest_age_s = now_s - float(rows.columns.arrival_s[waiting].min()) if len(waiting) else 0.0
        scores = np.zeros(len(demand.slots))
        score_running(
            rows.columns, rows.curves, self.greedy, self.losing, demand.slots, now_s, max(oldest_age_s, 0.0), scores
        )
        return [int(place) for place in np.argsort(-scores, kind="stable")]


def warm_up(rule: Rule, tables: Tables) -> None:
    """Compile, or load from the cache, what a step calls; with arguments of the very types that a step has."""
    rows = Rows(2, tables, capacity=4)
    rows.columns.prompt[:] = 8
    rows.columns.limit[:] = 8
    rows.fresh = [0]
    predict(rows)
    running: Slots = np.zeros(1, np.int32)
    rows.desk.waiting[0] = 1
    room = Room(30, 0, 100, 16, 1, 64, 1.0)
    choose_admissions(rows.columns, rows.curves, rule.greedy, running, 1, room, rows.desk, 1)
    score_running(rows.columns, rows.curves, rule.greedy, rule.losing, running, 1.0, 0.0, np.zeros(1))
    recompute_seconds(rule.losing, 0, 1)


def predict(rows: Rows) -> None:
    """Output still to come of the waiting requests that are not predicted yet."""
    if rows.fresh:
        fresh = np.array(rows.fresh, dtype=np.int32)
        refresh_remaining(rows.columns, rows.curves, fresh, len(fresh))
        rows.fresh = []


@njit(cache=True)
def score_running(columns, curves, rule, cost, running, now_s, oldest_age_s, out):  # type: ignore[no-untyped-def]
    """Victim scores (R,) of the running requests."""
    for i in range(len(running)):
        n = running[i]
        generated = columns.generated[n]
        out[i] = victim_score(
            cost,
            rule,
            columns.prompt[n] + generated,
            generated,
            mean_remaining(curves, n, generated, columns.limit[n]),
            max(now_s - columns.arrival_s[n], 0.0),
            columns.preemptions[n],
            columns.overtaker[n],
            oldest_age_s,
        )


def put_last(order: list[object], places: list[int]) -> list[object]:
    """The list with the entries at `places` moved to its end, the first of them last; the others keep their order."""
    moved = set(places)
    return [entry for place, entry in enumerate(order) if place not in moved] + [order[p] for p in reversed(places)]


def enough_victims(engine: Engine, demand: Demand, ordered: list[int], blocks: FloatArray | list[int]) -> list[int]:
    """The first of the `ordered` places whose eviction covers what this step lacks; at most all but one."""
    lacking = demand.total_blocks - engine.free_blocks
    running = engine.scheduler.running
    chosen: list[int] = []
    for place in ordered:
        if lacking <= 0 or len(chosen) == len(running) - 1:
            break
        freed = engine.gives_back(running[place], int(blocks[place]))
        if freed == 0 and int(blocks[place]) > 0:
            continue
        chosen.append(place)
        lacking -= freed + int(demand.blocks[place])
    return chosen
