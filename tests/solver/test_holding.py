"""Requests are held back for the KV of sessions that are about to return, and for no longer than that pays."""

import numpy as np
from test_select import RUNNING, TOTAL, state

from kvhorizon.models.forecast.returns import LATER_TURN
from kvhorizon.solver.heuristic.admission import choose_admissions
from kvhorizon.solver.heuristic.columns import Room
from kvhorizon.solver.heuristic.idle_sessions import (
    MOST,
    REFRESH_S,
    expected_tokens,
    new_idle_sessions,
    turn_came,
    turn_ended,
)
from kvhorizon.solver.heuristic.out_of_order import ADMITTED
from kvhorizon.solver.heuristic.params import GREEDY, Greedy, Knob, with_prefix_cache
from kvhorizon.solver.heuristic.scratch import new_scratch

BLOCK = 16
OWN = TOTAL * BLOCK // (2 * RUNNING)  # tokens of each running request: half of the pool together
BATCH = np.arange(RUNNING, dtype=np.int32)


def admitted(
    returning: float, cached: int = 0, knob: str = Knob.BALANCED, running: int = RUNNING, ahead: float = 0.0
) -> list[int]:
    """Which of two waiting requests of 160 tokens is let in, where half of the pool is free: the first has nothing
    cached, the second `cached` tokens; `ahead` tokens were admitted since it would have been the first one's turn."""
    columns, curves, _ = state(2, plain=True)
    first = RUNNING
    columns.prompt[:RUNNING], columns.generated[:RUNNING], columns.shared[:RUNNING] = OWN - 10, 10, 0
    columns.arrival_s[first : first + 2] = 10.0, 20.0
    columns.prompt[first : first + 2], columns.generated[first : first + 2] = 160, 0
    columns.preemptions[first : first + 2] = 0
    columns.remaining[first : first + 2] = 5.0
    columns.idle[first + 1] = cached
    columns.turn[first] = 0.0
    scratch = new_scratch(160, 8)
    scratch.ledger[ADMITTED] = ahead
    scratch.waiting[:2] = first, first + 1
    free = TOTAL // 2
    room = Room(free, 0, TOTAL, BLOCK, 8, 8000, 200.0, np.inf, TOTAL - free, 0.02, 1e-4, returning)
    rule: Greedy = with_prefix_cache(GREEDY[Knob(knob)])
    count = choose_admissions(columns, curves, rule, BATCH[:running], running, room, scratch, 2)
    return [int(n) - first for n in scratch.result.chosen[:count]]


POOL = float(TOTAL * BLOCK)


def test_where_none_returns_none_is_held() -> None:
    assert admitted(0.0) == [0, 1]


def test_a_request_waits_for_kv_that_is_about_to_be_used_again() -> None:
    assert admitted(0.5 * POOL) == []


def test_a_turn_whose_history_is_cached_does_not_wait() -> None:
    assert admitted(0.5 * POOL, cached=96) == [1]


def test_an_engine_that_would_run_too_little_holds_none() -> None:
    assert admitted(0.5 * POOL, running=1) == [0, 1]


def test_a_held_request_waits_for_a_share_of_the_queue_at_most() -> None:
    """A queue of 320 tokens: a quarter of them with `balanced`, a tenth with `strict`."""
    assert admitted(0.5 * POOL, ahead=70.0) == []
    assert admitted(0.5 * POOL, ahead=90.0)[:1] == [0]
    assert admitted(0.5 * POOL, ahead=40.0, knob=Knob.STRICT)[:1] == [0]
    assert admitted(0.5 * POOL, ahead=90.0, knob=Knob.MEANS) == []


def pause(idle: object, key: int, begin_s: float, pause_s: float) -> None:
    turn_ended(idle, key, LATER_TURN, begin_s, 100.0)
    assert turn_came(idle, key, begin_s + pause_s)


def test_kv_of_sessions_that_are_away_counts_by_the_chance_that_they_return() -> None:
    idle = new_idle_sessions()
    for key in range(200):
        pause(idle, key, float(key), 1.0)
    turn_ended(idle, 1000, LATER_TURN, 300.0, 500.0)
    assert 400.0 < expected_tokens(idle, 300.1, 10.0) <= 500.0
    assert expected_tokens(idle, 300.1 + REFRESH_S, 0.1) == 0.0  # a pool that is filled at once
    assert expected_tokens(idle, 320.0, 10.0) == 0.0  # away for too long
    assert not turn_came(idle, 5, 321.0)


def test_of_too_many_the_one_away_longest_is_forgotten() -> None:
    idle = new_idle_sessions()
    for key in range(MOST + 3):
        turn_ended(idle, key, LATER_TURN, float(key), 1.0)
    assert idle.size[0] == MOST
    assert not turn_came(idle, 2, 1e6)
    assert turn_came(idle, 3, 1e6)
