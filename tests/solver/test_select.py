"""The choice of a step is that of a plain reading of the rule: every candidate and horizon looked at anew."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvhorizon.models.forecast.survival import (
    EXACT,
    Curves,
    empirical_curve,
    lognormal_curve,
    residual_of,
    survive,
    survive_each,
)
from kvhorizon.solver.heuristic.admission import choose_admissions, refresh_remaining
from kvhorizon.solver.heuristic.columns import Columns, Room
from kvhorizon.solver.heuristic.out_of_order import MOST_SAVED
from kvhorizon.solver.heuristic.params import (
    GREEDY,
    HORIZONS,
    KNOBS,
    PLANNED,
    Greedy,
    Knob,
    aging,
    kv_time,
    reserve_cap,
    varied,
    with_prefix_cache,
)
from kvhorizon.solver.heuristic.scratch import new_scratch

TOTAL = 2000
RUNNING = 60


def curves_for(rng: np.random.Generator, size: int) -> Curves:
    tables = np.stack([*(lognormal_curve(s) for s in (0.3, 0.6, 1.4)), empirical_curve(rng.integers(1, 500, 200))])
    curve = rng.integers(EXACT, len(tables), size).astype(np.int32)
    scale = np.where(rng.random(size) < 0.5, 500.0, rng.uniform(5.0, 2000.0, size))
    return Curves(tables, np.stack([residual_of(table) for table in tables]), curve, scale)


def state(seed: int, size: int = 160, plain: bool = False, cached: int = 0) -> tuple[Columns, Curves, Any]:
    """`cached`: the block size in which some of each context is cached and shared; 0: nothing is."""
    rng = np.random.default_rng(seed)

    def counts(low: int, high: int) -> Any:
        return rng.integers(low, high, size).astype(np.int32)

    columns = Columns(
        np.round(rng.uniform(0.0, 100.0, size), 1),  # some arrive together
        counts(1, 700),
        counts(0, 500),
        counts(0, 700),
        counts(1, 60),
        counts(1, 4000),
        counts(0, 3),
        (rng.random(size) < 0.2).astype(np.uint8),
        np.ones(size),
        np.ones(size) if plain else rng.choice([0.25, 1.0, 3.0], size),
        np.zeros(size, np.int32),
        np.zeros(size, np.int32),
        np.full(size, -1.0),
    )
    if cached:
        blocks = (columns.prompt + columns.generated - 1) // cached
        found = rng.integers(0, blocks + 1)
        columns.shared[:] = cached * rng.integers(0, found + 1)
        columns.idle[:] = cached * found - columns.shared
        columns.blocks[:] = np.maximum(columns.blocks, columns.shared // cached)
    curves = curves_for(rng, size)
    refresh_remaining(columns, curves, np.arange(size, dtype=np.int32), size)
    return columns, curves, rng


def survival(columns: Columns, curves: Curves, n: int) -> list[float]:
    """S at each horizon, 0 once it is 0."""
    found: list[float] = []
    for h in HORIZONS:
        gone = bool(found) and found[-1] <= 0.0
        found.append(0.0 if gone else survive(curves, n, columns.generated[n], h, columns.limit[n]))
    return found


class Plainly:
    """The rule as `solver.heuristic.params` and `solver.heuristic.admission` describe it, with nothing remembered
    between candidates."""

    def __init__(self, columns: Columns, curves: Curves, rule: Greedy, running: list[int], room: Room) -> None:
        self.columns, self.curves, self.rule, self.running, self.room = columns, curves, rule, running, room
        self.pool = float(room.total_blocks * room.block_size)
        self.half = room.block_size / 2.0

    def context(self, n: int) -> int:
        """Of its own."""
        columns = self.columns
        return int(columns.prompt[n]) + int(columns.generated[n]) - int(columns.shared[n])

    def prefill(self, n: int) -> int:
        return self.context(n) - int(self.columns.idle[n])

    def own_held(self, n: int) -> int:
        return int(self.columns.blocks[n]) * self.room.block_size - int(self.columns.shared[n])

    def shared(self) -> float:
        if not any(self.columns.shared[n] for n in self.running):
            return 0.0
        in_use = self.room.used_blocks * self.room.block_size
        return float(max(in_use - sum(self.own_held(n) for n in self.running), 0))

    def warm(self, n: int) -> bool:
        idle = int(self.columns.idle[n])
        return self.rule.cached and idle > 0 and 2 * idle >= self.context(n)

    def mostly_cached(self, n: int) -> bool:
        return 2 * int(self.columns.shared[n] + self.columns.idle[n]) >= int(
            self.columns.prompt[n] + self.columns.generated[n]
        )

    def may_hold(self, waiting: list[int]) -> bool:
        """The engine stays busy if requests are held back."""
        if not self.rule.cached or self.room.returning_tokens <= 0.0 or not self.running:
            return False
        busy = len(self.running) + sum(map(self.mostly_cached, waiting))
        mean = sum(self.context(n) for n in self.running) / len(self.running)
        return busy * mean >= 0.35 * 0.9 * self.pool

    def held(self, n: int, free: int, waited: float, queued: float) -> bool:
        """It waits for KV that is expected to be used again; `waited`: tokens admitted since its turn."""
        used = (self.room.total_blocks - free) * self.room.block_size
        return (
            not self.mostly_cached(n)
            and self.columns.preemptions[n] == 0
            and used + self.room.returning_tokens + self.context(n) > 0.9 * self.pool
            and waited < self.rule.holding.overdue * queued
        )

    def work(self, n: int) -> float:
        """KV·time and, with a prefix cache, the time of the prefill, of all memory in use."""
        found = float(kv_time(self.context(n), float(self.columns.remaining[n])))
        if self.rule.cached:
            held = self.room.used_blocks * self.room.block_size
            found += held * max(self.prefill(n), 1) * self.room.prefill_s_per_token / self.room.step_s
        return found

    def care(self, waiting: int) -> float:
        """The share of all reserves that is kept."""
        if not self.rule.cached or not self.running:
            return 1.0
        mean = sum(self.context(n) for n in self.running) / len(self.running)
        loss = (len(self.running) + waiting) * mean * self.room.prefill_s_per_token / self.room.step_s + 3.0
        return min(max(math.log(0.06 * loss) / math.log(80.0), 0.0), 1.0)

    def profile(self, batch: list[int]) -> tuple[Any, Any]:
        mean, variance = np.full(len(HORIZONS), self.shared()), np.zeros(len(HORIZONS))
        for m in batch:
            for h, s in enumerate(survival(self.columns, self.curves, m)):
                size = self.context(m) + HORIZONS[h] + self.half
                mean[h] += s * size
                variance[h] += s * (1.0 - s) * size * size
        return mean, variance

    def excess(self, n: int, batch: list[int], occupied: float) -> float:
        mean, variance = self.profile(batch)
        worst = 0.0
        for h, s in enumerate(survival(self.columns, self.curves, n)):
            own = self.context(n) + HORIZONS[h] + self.half
            spread = math.sqrt(variance[h] + s * (1.0 - s) * own * own)
            over = mean[h] + s * own + self.rule.reserve.z * spread - occupied - self.context(n)
            worst = max(worst, over if h == 0 else s * over)
            if s <= 0.01:
                break
        return worst

    def keys(self, waiting: list[int], rank: Any) -> tuple[dict[int, float], float]:
        """Order keys of those that may overtake, and the mean R."""
        columns, rule = self.columns, self.rule
        remaining = {n: float(columns.remaining[n]) for n in waiting}
        work = {n: self.work(n) / columns.weight[n] for n in waiting}
        mean_work = sum(work.values()) / len(waiting)
        found = {}
        for n in waiting:
            if rank[n] > 0 and not (rule.cached and rule.budgeted):
                found[n] = -1e30 + 1e20 * rank[n]
            elif not rule.budgeted:
                age_s = self.room.now_s - columns.arrival_s[n]
                found[n] = work[n] / aging(age_s, remaining[n] + columns.generated[n], rule)
            elif self.warm(n):
                if work[n] * 1e-9 <= mean_work:
                    found[n] = work[n] * 1e-9
            elif work[n] <= mean_work:
                found[n] = work[n]
        return found, sum(remaining.values()) / len(waiting)

    def choose(self, waiting: list[int], rank: Any, owed: float) -> tuple[list[tuple[int, bool]], float]:
        """Which requests, and whether out of order; and what requests out of order then owe, of `owed` tokens
        before."""
        columns, rule, room = self.columns, self.rule, self.room
        keys, average = self.keys(waiting, rank)
        self.care_now = self.care(len(waiting))
        queued, turn, admitted = 0.0, {}, 0.0
        for n in waiting:
            turn[n] = queued
            queued += self.context(n)
        free, budget = room.free_blocks - room.owed_blocks, room.token_budget
        granted = float(sum(max(self.own_held(n), 0) for n in self.running if columns.out_of_order[n]))
        chosen: list[tuple[int, bool]] = []
        overdue = held = False
        holds = self.may_hold(waiting)
        failures, oldest_waits, give = 0, False, rule.quota.overtake_flow / (1.0 - rule.quota.overtake_flow)
        while budget > 0 and len(chosen) < room.seats and failures <= rule.order.tries:
            taken = {n for n, _ in chosen}
            pick = min(keys, key=lambda n: (keys[n], waiting.index(n)), default=None)
            oldest, overtakes, memory_slack = None, False, False
            if rule.budgeted:
                used = float((room.total_blocks - free) * room.block_size)
                left = [n for n in waiting if n not in taken]
                if left and not oldest_waits:
                    oldest = min(left, key=lambda n: (columns.arrival_s[n], waiting.index(n)))
                share = (
                    max(rule.quota.overtake_share, rule.quota.backfill_share)
                    if oldest_waits
                    else rule.quota.overtake_share
                )
                if oldest is not None:
                    memory_slack = used + self.context(oldest) + rule.quota.slack_share * self.pool <= self.pool
                late = rule.quota.overdue_share * max(queued - 2.0 * room.used_blocks * room.block_size, 0.0)
                if pick is not None and self.warm(pick):
                    late = rule.quota.overdue_warm * queued
                overdue = oldest is not None and max(admitted - turn[oldest], 0.0) >= late
                if pick is not None and pick != oldest and not overdue and not (memory_slack and owed > 0.0):
                    overtakes = granted + self.context(pick) <= share * used
                if not overtakes:
                    pick = oldest
                memory_slack = memory_slack and not overdue
            if held:
                cached = {n: key for n, key in keys.items() if self.mostly_cached(n)}
                pick = min(cached, key=lambda n: (cached[n], waiting.index(n)), default=None)
                overtakes = memory_slack = False
                keys = {n: key for n, key in keys.items() if pick is not None and (key > cached[pick] or n in cached)}
            if pick is None:
                break
            if holds and not held and self.held(pick, free, max(admitted - turn[pick], 0.0), queued):
                held = True
                continue
            keys.pop(pick, None)
            whole = int(columns.prompt[pick]) + int(columns.generated[pick])
            wanted = -(-whole // room.block_size) - int(columns.shared[pick]) // room.block_size
            if wanted > free or not self.leaves_reserve(pick, pick == oldest, rank, free, average, chosen):
                if overdue:
                    break
                failures += 1
                oldest_waits = oldest_waits or pick == oldest
                continue
            admitted += self.context(pick)
            chosen.append((pick, overtakes))
            free -= wanted
            budget -= min(self.prefill(pick), budget)
            granted += self.context(pick) if overtakes else 0
            if memory_slack:
                owed = owed + self.prefill(pick) if overtakes else max(owed - give * self.prefill(pick), -MOST_SAVED)
        return chosen, owed

    def leaves_reserve(
        self, n: int, oldest: bool, rank: Any, free: int, average: float, chosen: list[tuple[int, bool]]
    ) -> bool:
        if not self.running and not chosen:
            return True
        occupied = float((self.room.total_blocks - free) * self.room.block_size)
        spare = self.pool - occupied - self.context(n)
        care = self.care_now
        if spare < care * self.rule.reserve.min_share * self.pool:
            return False
        remaining, others = float(self.columns.remaining[n]), self.running + [one for one, _ in chosen]
        growth = care * min(
            self.rule.reserve.growth_steps * (len(others) + 1), self.rule.reserve.growth_share * self.pool
        )
        if spare < growth and spare < self.rule.reserve.growth_spread * math.sqrt(self.profile(others)[1][0]):
            return False
        sure = rank[n] > 0 and remaining <= self.rule.order.sure_outputs * average
        if sure or spare >= care * reserve_cap(self.rule, oldest, remaining, average) * self.pool:
            return True
        return spare >= self.excess(n, others, occupied)


RULES = [*GREEDY.values(), *PLANNED.values()]
CACHED = [with_prefix_cache(rule) for rule in RULES]
NAMES = [*KNOBS, *(f"planned {knob}" for knob in KNOBS)]


@pytest.mark.parametrize("rule", RULES + CACHED, ids=NAMES + [f"{name} cached" for name in NAMES])
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    free=st.integers(0, 300),
    running=st.sampled_from([0, 1, RUNNING]),
    block_size=st.sampled_from([16, 32]),
    planned=st.integers(0, 12),
    owed=st.sampled_from([0.0, -1000.0, 1500.0]),
    caching=st.booleans(),
    returning=st.sampled_from([0.0, 3000.0, 20000.0]),
)
@example(
    seed=8616, free=167, running=0, block_size=16, planned=2, owed=0.0, caching=False, returning=0.0
)  # a flat part of a curve
def test_the_choice_is_the_rule_read_plainly(
    rule: Greedy,
    seed: int,
    free: int,
    running: int,
    block_size: int,
    planned: int,
    owed: float,
    caching: bool,
    returning: float,
) -> None:
    columns, curves, rng = state(seed, cached=block_size if caching else 0)
    seats, tokens = int(rng.integers(1, 20)), int(rng.integers(1, 4000))
    room = Room(free, 3, TOTAL, block_size, seats, tokens, 110.0, np.inf, TOTAL - free, 0.02, 1e-5, returning)
    waiting = (RUNNING + rng.permutation(100)[: rng.integers(1, 100)]).astype(np.int32)
    scratch = new_scratch(160, 32)
    scratch.ledger[0] = owed
    scratch.rank[waiting[:planned]] = np.arange(1, 1 + len(waiting[:planned]))
    scratch.waiting[: len(waiting)] = waiting
    batch = np.arange(running, dtype=np.int32)
    count = choose_admissions(columns, curves, rule, batch, running, room, scratch, len(waiting))
    found = list(
        zip(scratch.result.chosen[:count].tolist(), scratch.result.overtakes[:count].astype(bool).tolist(), strict=True)
    )
    plainly = Plainly(columns, curves, rule, batch.tolist(), room)
    assert (found, scratch.ledger[0]) == plainly.choose(waiting.tolist(), scratch.rank, owed)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000))
def test_survival_at_each_horizon_is_survival(seed: int) -> None:
    """To the last bit."""
    columns, curves, _ = state(seed, size=20)
    out = np.zeros(len(HORIZONS))
    for n in range(20):
        survive_each(curves, n, columns.generated[n], HORIZONS, columns.limit[n], out)
        assert out.tolist() == survival(columns, curves, n)


def test_half_a_block_is_kept_per_request() -> None:
    """Sixty requests that surely go on keep 8 tokens each in blocks of 16, and 16 in blocks of 32."""
    columns, curves, _ = state(0)
    columns.limit[:] = 10**6
    sure = curves._replace(curve=np.full(160, EXACT, np.int32), scale=np.full(160, 1e6))
    scratch, tokens = new_scratch(160, 4), int((columns.prompt + columns.generated)[:RUNNING].sum())
    columns.remaining[:] = 10.0
    batch = np.arange(RUNNING, dtype=np.int32)
    for block_size in (16, 32):
        scratch.waiting[0] = RUNNING
        blocks = -(-tokens // block_size)
        own = -(-int(columns.prompt[RUNNING] + columns.generated[RUNNING]) // block_size)
        room = Room(own + 40, 0, blocks + own + 40, block_size, 1, 4000, 110.0, np.inf, blocks, 0.02, 0.0)
        rule = varied(GREEDY[Knob.MEANS], min_share=0.0, growth_steps=0.0, cap_share=1.0, size_scaled=False, z=0.0)
        choose_admissions(columns, sure, rule, batch, RUNNING, room, scratch, 1)
        assert scratch.profile.mean[0] == pytest.approx(tokens + RUNNING * (HORIZONS[0] + block_size / 2))
