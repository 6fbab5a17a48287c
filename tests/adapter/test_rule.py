"""The step's cheap answers agree with the full ones, and demand is what the engine will take."""

import numpy as np
import pytest
from fakes import request, scheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.adapter.control.step_policy import (
    MANY,
    NO_REQUEST,
    REST_S,
    Rule,
    enough_victims,
    greatest_first,
    move_to_tail,
)
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.running_batch import Batch
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.engine_facts import UNKNOWN_COST
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.solver.heuristic.params import GREEDY, KNOBS, Knob, varied, with_prefix_cache

TABLES = Forecaster().tables


def build(running: list[tuple[int, int, int]], waiting: list[int], free: int, seats: int = 16) -> tuple[Engine, Rows]:
    """Running requests as (prompt, output, computed), waiting ones as prompts."""
    fake = scheduler(total=400, free=free, seats=seats)
    rows = Rows(seats, TABLES)
    for number, (prompt, output, computed) in enumerate(running):
        one = request(f"run{number}", prompt, output, computed)
        fake.running.append(one)
        rows.take(rows.add(one, float(number), 100, 0), 0.0)
    for number, prompt in enumerate(waiting):
        one = request(f"wait{number}", prompt)
        fake.waiting.append(one)
        rows.add(one, 100.0 + number, 100, 0)
    return Engine(fake), rows


def test_demand_by_hand() -> None:
    """Decodes that need a block or none, a prefill that gets the rest of 256 tokens, one that gets nothing."""
    engine, rows = build([(10, 6, 16), (10, 7, 16), (600, 0, 100), (50, 0, 0)], [], free=200)
    demand = Batch(engine, rows).demand()
    assert demand.tokens.tolist() == [0, 1, 255, 0]
    assert demand.blocks.tolist() == [0, 1, 16, 0]
    assert demand.owed_blocks == 15 + 4


@pytest.mark.parametrize(("tokens_per_step", "admitted"), [(1.0, 1), (4.0, 0)])
def test_drafts_make_the_running_grow_faster(tokens_per_step: float, admitted: int) -> None:
    """Eleven of them take 132 tokens in twelve steps, or 320, a twentieth of the pool; 224 would be left."""
    engine, rows = build([(100, 1, 101)] * 10, [192], free=26)
    rule = Rule(varied(GREEDY[Knob.MEANS], growth_spread=1e9), UNKNOWN_COST)
    rule.use(0.0, tokens_per_step)
    choice = rule.choose(rows, engine, Batch(engine, rows).demand(), rows.waiting(), 200.0)
    assert len(choice.slots) == admitted


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 40), st.integers(0, 40)), min_size=1), st.integers(0, 300)
)
def test_calm_is_calm(known: list[tuple[int, int, int]], free: int) -> None:
    """Whatever each request does in the meantime, one decode a step at most, no step lacks blocks."""
    engine, rows = build([(p, g, max(p + g - behind, 0)) for p, g, behind in known], [], free, seats=64)
    for step in range(Batch(engine, rows).calm_steps(Batch(engine, rows).demand())):
        demand = Batch(engine, rows).demand()
        assert demand.total_blocks <= engine.free_blocks
        engine.scheduler.kv_cache_manager.block_pool.free -= demand.total_blocks
        for number, (one, tokens) in enumerate(zip(engine.scheduler.running, demand.tokens.tolist(), strict=True)):
            one.num_computed_tokens += tokens
            if one.num_computed_tokens == one.num_prompt_tokens + one.num_output_tokens and (step + number) % 3:
                one.num_output_tokens += 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 60)), max_size=10),
    st.lists(st.integers(1, 900), min_size=1, max_size=12),
    st.integers(0, 400),
    st.sampled_from(KNOBS),
)
def test_infeasible_means_no_request(known: list[tuple[int, int]], waiting: list[int], free: int, knob: Knob) -> None:
    engine, rows = build([(p, g, p + g) for p, g in known], waiting, free)
    rule = Rule(GREEDY[knob], UNKNOWN_COST)
    if not known:
        return
    infeasible = rule.infeasible(rows, engine, engine.free_blocks, 200.0)
    choice = rule.choose(rows, engine, Batch(engine, rows).demand(), rows.waiting(), 200.0)
    assert not (infeasible and choice.slots)
    blocks = sum(-(-int(rows.columns.prompt[slot]) // 16) for slot in choice.slots)
    assert blocks + Batch(engine, rows).demand().total_blocks <= max(free, Batch(engine, rows).demand().total_blocks)
    assert len(choice.slots) <= engine.seats
    if not choice.slots:
        assert rule.infeasible(rows, engine, engine.free_blocks, 200.05)  # it stands
        rule.arrived(1)
        assert rule.choose(rows, engine, Batch(engine, rows).demand(), rows.waiting(), 200.05) is NO_REQUEST


@pytest.mark.parametrize(("left", "rests"), [(MANY - 1, False), (MANY, True)])
def test_a_long_queue_rests_after_a_look_that_left_many_waiting(left: int, rests: bool) -> None:
    """One of them was let in; the others are looked at in the next step where they are few, else after a rest."""
    engine, rows = build([(32, 1, 33)], [16] + [6000] * left, free=200, seats=64)
    rule = Rule(GREEDY[Knob.MEANS], UNKNOWN_COST)
    (slot,) = rule.choose(rows, engine, Batch(engine, rows).demand(), rows.waiting(), 200.0).slots
    rows.take(slot, 200.0)
    rule.arrived(16)
    assert rule.stands(engine, engine.free_blocks, 200.0 + 0.9 * REST_S) is rests
    assert not rule.stands(engine, engine.free_blocks, 200.0 + 1.1 * REST_S)
    rule.changed()  # by a plan, or new forecasts
    assert not rule.stands(engine, engine.free_blocks, 200.0 + 0.9 * REST_S)


@pytest.mark.parametrize(("cached", "free", "rests"), [(True, 163, True), (True, 164, False), (False, 199, True)])
def test_with_a_prefix_cache_a_rest_ends_once_the_first_left_is_sure_to_fit(
    cached: bool, free: int, rests: bool
) -> None:
    """It takes 150 blocks, and where evictions are dear its reserve is at most 3.5 % of 400; an eviction by itself ends
    no rest. Without a prefix cache the rest goes by time alone, and an eviction ends it."""
    engine, rows = build([(32, 1, 33)], [2400] + [6000] * MANY, free=100, seats=64)
    knob = GREEDY[Knob.BALANCED]
    rule = Rule(with_prefix_cache(knob) if cached else knob, UNKNOWN_COST)
    rule.prefill_s_per_token = 1.0
    assert rule.choose(rows, engine, Batch(engine, rows).demand(), rows.waiting(), 200.0) is NO_REQUEST
    assert rule.rests(engine, 100, 200.0 + 0.9 * REST_S)
    assert rule.rests(engine, free, 200.0 + 0.9 * REST_S) is rests
    assert not rule.rests(engine, 100, 200.0 + 1.1 * REST_S)
    rule.evicted(500)
    assert rule.rests(engine, 100, 200.0 + 0.9 * REST_S) is cached


def test_victims_cover_what_is_lacking_and_leave_one() -> None:
    engine, rows = build([(32, 0, 32 + 16 * k) for k in range(4)], [], free=0)
    for one in engine.scheduler.running:
        one.num_output_tokens = one.num_computed_tokens - 32 + 1
    demand = Batch(engine, rows).demand()
    assert demand.blocks.tolist() == [1, 1, 1, 1]
    held, ordered = rows.columns.blocks, iter([3, 1, 0, 2])
    assert enough_victims(engine, demand, ordered, held) == [3]  # frees 5 blocks and wants none: 4 lacked
    assert next(ordered) == 1
    assert enough_victims(engine, demand, iter([0, 1, 2, 3]), held) == [0, 1]
    order = list("abcd")
    move_to_tail(order, [2, 0])
    assert order == list("bdac")


def test_victims_are_ordered_by_the_shared_score() -> None:
    """A request near its end is the last to go."""
    engine, rows = build([(100, 10, 110), (100, 95, 195)], [], free=0)
    rule = Rule(GREEDY[Knob.MEANS], UNKNOWN_COST)
    assert list(rule.victims(rows, Batch(engine, rows).demand(), 10.0)) == [0, 1]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, -3.0]), max_size=12))
def test_the_greatest_come_first_and_equals_in_their_order(scores: list[float]) -> None:
    found = list(greatest_first(np.array(scores, dtype=np.float64)))
    assert found == np.argsort(-np.array(scores), kind="stable").tolist()


def test_running_rows_are_read_anew() -> None:
    engine, rows = build([(10, 0, 10)], [], free=10)
    engine.scheduler.running[0].num_output_tokens = 5
    engine.scheduler.running[0].num_computed_tokens = 14
    slots = Batch(engine, rows).demand().slots
    assert rows.columns.generated[slots].tolist() == [5]
    assert rows.columns.computed[slots].tolist() == [14]
    assert np.array_equal(rows.columns.blocks[slots], [1])
