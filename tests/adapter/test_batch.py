"""A batch that is told what happens knows what one would find that reads every request anew."""

from __future__ import annotations

import random
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import request, scheduler

from kvhorizon.adapter.engine import running_batch as batch_module
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.running_batch import Batch
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.forecasting.forecaster import Forecaster

TABLES = Forecaster().tables
BUDGET = 96


class World:
    """An engine of random deeds, one batch that follows it, and whatever fresh ones are asked for."""

    def __init__(self, seed: int, asynchronous: bool) -> None:
        self.rng = random.Random(seed)
        self.fake = scheduler(total=4000, free=4000, seats=24)
        self.fake.max_num_scheduled_tokens = BUDGET
        self.fake.scheduler_config.async_scheduling = asynchronous
        self.engine = Engine(self.fake)
        self.rows = Rows(24, TABLES)
        self.batch = Batch(self.engine, self.rows)
        self.waiting: list[Any] = []
        self.flight: list[list[Any]] = []  # who will give a token, by step
        self.born = 0

    def arrive(self) -> None:
        one = request(f"r{self.born}", self.rng.randint(1, 70), max_tokens=10_000)
        self.born += 1
        self.rows.add(one, 0.0, 100, 0)
        self.waiting.append(one)

    def leave(self, one: Any) -> None:
        """It is over."""
        self.batch.gone(self.rows.slot_of[one.request_id])
        self.rows.release(one.request_id)
        self.fake.running.remove(one)

    def preempt(self, one: Any) -> None:
        slot = self.rows.slot_of[one.request_id]
        one.num_computed_tokens = one.num_output_placeholders = 0
        self.fake.running.remove(one)
        self.batch.gone(slot)
        self.rows.wait(slot)
        self.waiting.append(one)

    def reorder(self) -> None:
        running = self.fake.running
        places = self.rng.sample(range(len(running)), min(2, len(running)))
        moved = [running[place] for place in reversed(places)]
        running[:] = [one for place, one in enumerate(running) if place not in places] + moved
        self.batch.reordered(places)

    def schedule(self) -> None:
        rng, running = self.rng, self.fake.running
        if len(running) > 1 and rng.random() < 0.1:
            self.preempt(rng.choice(running))
        if len(running) > 1 and rng.random() < 0.1:
            self.reorder()
        tokens: dict[str, int] = {}
        budget, giving = BUDGET, []
        idle = rng.choice(running) if running and rng.random() < 0.1 else None
        for one in running:
            if one is not idle:
                budget -= self.compute(one, budget, tokens, giving)
        joined = []
        while self.waiting and budget > 0 and len(running) < 24 and rng.random() < 0.6:
            one = self.waiting.pop(0)
            running.append(one)
            slot = self.rows.slot_of[one.request_id]
            self.rows.take(slot, 0.0)
            joined.append(slot)
            budget -= self.compute(one, budget, tokens, giving)
        self.batch.advanced(tokens, sum(tokens.values()), joined)
        self.flight.append(giving)

    def compute(self, one: Any, budget: int, tokens: dict[str, int], giving: list[Any]) -> int:
        known = one.num_prompt_tokens + one.num_output_tokens + one.num_output_placeholders
        chunk = min(known - one.num_computed_tokens, budget)
        if chunk <= 0:
            return 0
        tokens[one.request_id] = chunk
        one.num_computed_tokens += chunk
        if one.num_computed_tokens == known:
            giving.append(one)
            one.num_output_placeholders += self.engine.asynchronous
        return chunk

    def update(self) -> None:
        if len(self.flight) <= self.engine.asynchronous:
            return
        for one in self.flight.pop(0):
            if one in self.fake.running and (one.num_output_placeholders or not self.engine.asynchronous):
                one.num_output_tokens += 1
                one.num_output_placeholders -= self.engine.asynchronous
                if self.rng.random() < 0.04:
                    self.leave(one)

    def fresh(self, scheduled: bool) -> tuple[Rows, Any]:
        """Another's view of the same engine."""
        rows = Rows(24, TABLES)
        for one in self.fake.running:
            rows.take(rows.add(one, 0.0, 100, 0), 0.0)
        return rows, Batch(self.engine, rows).demand(scheduled)

    def check(self, scheduled: bool) -> None:
        demand = self.batch.demand(scheduled)
        rows, other = self.fresh(scheduled)
        names = [self.rows.request[slot].request_id for slot in demand.slots.tolist()]
        assert names == [one.request_id for one in self.fake.running]
        assert demand.tokens.tolist() == other.tokens.tolist()
        assert demand.blocks.tolist() == other.blocks.tolist()
        assert demand[3:] == other[3:]
        for name in ("computed", "blocks", "generated"):
            mine = getattr(self.rows.columns, name)[demand.slots].tolist()
            theirs = getattr(rows.columns, name)[other.slots].tolist()
            in_flight = self.engine.asynchronous and name == "generated"
            assert all(abs(a - b) <= in_flight for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_a_batch_that_follows_is_a_batch_that_reads(seed: int, asynchronous: bool) -> None:
    world = World(seed, asynchronous)
    exact = 0
    for _ in range(150):
        if world.rng.random() < 0.4:
            world.arrive()
        wanted = world.batch.wanted_blocks() if world.rng.random() < 0.5 else None
        if wanted is not None:
            total = world.fresh(False)[1].total_blocks
            assert wanted >= total
            exact += wanted == total
        if world.rng.random() < 0.4:
            world.check(scheduled=False)
        world.schedule()
        if world.rng.random() < 0.1:
            world.check(scheduled=True)
        world.update()
    assert exact > 20
    assert world.batch.reads < 20


@pytest.mark.parametrize("lookahead", [0, 3])
def test_drafts_are_counted_to_the_token_and_the_block(lookahead: int) -> None:
    """Of up to three drafts some are refused, and the blocks allocated for them stay."""
    rng, fake, tables = random.Random(1), scheduler(total=4000, free=4000, seats=24), defaultdict(list)
    fake.num_spec_tokens, fake.num_lookahead_tokens, fake.max_num_scheduled_tokens = 3, lookahead, 1024
    fake.kv_cache_manager.coordinator.single_type_managers = [SimpleNamespace(req_to_blocks=tables)]
    rows = Rows(24, TABLES)
    batch = Batch(Engine(fake), rows)
    for number in range(12):
        one = request(f"r{number}", 20 + number, max_tokens=10_000)
        fake.running.append(one)
        rows.take(rows.add(one, 0.0, 100, 0), 0.0)
    for _ in range(100):
        for one in fake.running:
            one.spec_token_ids = [7] * rng.randint(0, 3) if one.num_computed_tokens else []
        demand, wanted = batch.demand(), batch.wanted_blocks()
        tokens, blocks = take_all(fake.running, tables, lookahead)
        assert (demand.tokens.tolist(), demand.blocks.tolist()) == (list(tokens.values()), blocks)
        assert wanted == sum(blocks)
        batch.advanced(tokens, sum(tokens.values()), [])
        for one in fake.running:
            refused = rng.randint(0, len(one.spec_token_ids))
            one.num_output_tokens += len(one.spec_token_ids) + 1 - refused
            one.num_computed_tokens -= refused


def take_all(running: list[Any], tables: dict[str, list[int]], lookahead: int) -> tuple[dict[str, int], list[int]]:
    """All get what they want: tokens by request, and new blocks, which are put in their tables."""
    tokens, blocks = {}, []
    for one in running:
        known = one.num_prompt_tokens + one.num_output_tokens + len(one.spec_token_ids)
        tokens[one.request_id] = known - one.num_computed_tokens
        one.num_computed_tokens = known
        table = tables[one.request_id]
        blocks.append(max(-(-(known + lookahead) // 16) - len(table), 0))
        table += [0] * blocks[-1]
    return tokens, blocks


def test_an_engine_that_does_otherwise_is_read_anew() -> None:
    world = World(2, asynchronous=False)
    for _ in range(30):
        world.arrive()
        world.batch.demand()
        world.schedule()
        world.update()
    reads = world.batch.reads
    world.batch.advanced({}, 1, [])  # it says that it computed one token, and of no request
    world.check(scheduled=False)
    assert world.batch.reads == reads + 1


def test_all_are_read_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "READ_EVERY", 10)
    world = World(3, asynchronous=False)
    for _ in range(5):
        world.arrive()
    for _ in range(100):
        world.check(scheduled=False)
        world.schedule()
        world.update()
    assert 9 <= world.batch.reads <= 25
