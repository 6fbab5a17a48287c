"""How much of its reserves the rule keeps where an engine has a prefix cache, and in which order it admits there."""

import math

import numpy as np
import pytest
from test_select import RUNNING, TOTAL, state

from kvhorizon.solver.heuristic.admission import choose_admissions
from kvhorizon.solver.heuristic.caution import AT_ONCE, DEAR, EVICTED_WAITS, caution
from kvhorizon.solver.heuristic.columns import Room
from kvhorizon.solver.heuristic.params import GREEDY, Knob, with_prefix_cache
from kvhorizon.solver.heuristic.scratch import new_scratch

CACHED = with_prefix_cache(GREEDY[Knob.BALANCED])
BATCH = np.arange(RUNNING, dtype=np.int32)


def room(free: int, prefill_s: float = 0.0) -> Room:
    return Room(free, 0, TOTAL, 16, 8, 8000, 200.0, np.inf, TOTAL - free, 0.02, prefill_s)


def kept(prefill_s: float) -> float:
    columns, _, _ = state(1)
    columns.prompt[:RUNNING], columns.generated[:RUNNING] = 90, 10
    return float(caution(columns, CACHED, room(50, prefill_s), BATCH, RUNNING, 40))


def test_where_an_eviction_costs_nothing_no_reserve_is_kept() -> None:
    assert kept(0.0) == 0.0


def test_where_it_is_dear_all_of_it_is_kept() -> None:
    assert kept(1e-2) == 1.0


def test_between_them_the_logarithm_decides() -> None:
    """100 tokens of 80 µs are 0.4 of a step of 20 ms, which all requests wait."""
    loss = (RUNNING + 40) * 0.4 + EVICTED_WAITS
    assert kept(8e-5) == pytest.approx(math.log(AT_ONCE * loss) / math.log(DEAR))
    assert 0.0 < kept(8e-5) < kept(1.6e-4) < 1.0


def test_without_a_prefix_cache_reserves_are_whole() -> None:
    columns, _, _ = state(1)
    assert caution(columns, GREEDY[Knob.BALANCED], room(50), BATCH, RUNNING, 40) == 1.0


def three_wait(idle_of_the_last: int) -> list[int]:
    """Request RUNNING came first and wants 40 blocks; the next two want 2 each. Nothing runs that could grow."""
    columns, curves, _ = state(3, plain=True)
    first = RUNNING
    columns.arrival_s[first : first + 3] = 10.0, 20.0, 30.0
    columns.prompt[first : first + 3], columns.generated[first : first + 3] = (640, 32, 32), 0
    columns.remaining[first : first + 3] = 100.0, 5.0, 5.0
    columns.idle[first + 2] = idle_of_the_last
    scratch = new_scratch(160, 8)
    scratch.waiting[:3] = first, first + 1, first + 2
    count = choose_admissions(columns, curves, CACHED, BATCH[:1], 1, room(300), scratch, 3)
    return [int(n) - first for n in scratch.result.chosen[:count]]


def test_requests_keep_their_order_of_arrival() -> None:
    assert three_wait(0) == [0, 1, 2]


def test_one_whose_prompt_is_cached_in_free_blocks_goes_first() -> None:
    assert three_wait(16)[0] == 2


def test_the_oldest_is_passed_only_for_half_of_its_wait() -> None:
    """Cached requests keep coming, two blocks each, while the oldest waits for one block: it waits for few of them."""
    columns, curves, _ = state(3, plain=True)
    columns.arrival_s[RUNNING:] = np.arange(160.0 - RUNNING)
    columns.prompt[RUNNING:], columns.generated[RUNNING:] = 32, 0
    columns.idle[RUNNING + 1 :] = 16
    scratch, waits = new_scratch(160, 8), list(range(RUNNING, RUNNING + 9))
    passed = 0
    for newest in range(RUNNING + 9, 160):
        scratch.waiting[: len(waits)] = waits
        one = room(300)._replace(seats=1)
        assert choose_admissions(columns, curves, CACHED, BATCH[:1], 1, one, scratch, len(waits)) == 1
        chosen = int(scratch.result.chosen[0])
        waits.remove(chosen)
        if chosen == RUNNING:
            break
        passed += 1
        waits.append(newest)
    assert chosen == RUNNING
    assert 3 <= passed <= 6
