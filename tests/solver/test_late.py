"""The late lane: requests that have waited longer than the bound go first, and need only the least reserve."""

import dataclasses
import math

import numpy as np
import pytest
from problems import random_snapshot

from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.solver.heuristic.admission import refresh_remaining
from kvhorizon.solver.heuristic.of_a_snapshot import admissions, columns_of, room_of
from kvhorizon.solver.heuristic.order import is_late, rank_waiting
from kvhorizon.solver.heuristic.params import GREEDY, Greedy, Knob, varied
from kvhorizon.solver.heuristic.scratch import new_scratch
from kvhorizon.state import Snapshot

RUNNING, WAITING = 8, 40
MEANS = GREEDY[Knob.MEANS]


def order_and_lateness(snapshot: Snapshot, rule: Greedy, ranks: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Waiting requests (W,) in the order in which they would be tried, and which of them are late."""
    curves, columns, room = resolve_curves(snapshot), columns_of(snapshot), room_of(snapshot, rule)
    scratch = new_scratch(RUNNING + WAITING, 1)
    waiting = np.arange(RUNNING, RUNNING + WAITING)
    scratch.waiting[:WAITING] = waiting
    for n, rank in ranks.items():
        scratch.rank[n] = rank
    refresh_remaining(columns, curves, scratch.waiting, WAITING)
    rank_waiting(columns, rule, room, scratch, WAITING)
    late = np.array([is_late(columns, rule, room, n) for n in waiting])
    return np.argsort(scratch.keys[:WAITING], kind="stable"), late


@pytest.mark.parametrize("seed", range(8))
def test_the_late_go_first_by_arrival_then_the_planned_then_the_rest(seed: int) -> None:
    snapshot = random_snapshot(seed, RUNNING, WAITING)
    ages = snapshot.now_s - snapshot.requests.arrival_s[RUNNING:]
    rule = varied(MEANS, late_after_s=float(np.quantile(ages, 0.7)))
    planned = {RUNNING + 3: 2, RUNNING + 17: 1}
    order, late = order_and_lateness(snapshot, rule, planned)
    np.testing.assert_array_equal(late, ages > rule.order.late_after_s)
    assert 0 < late.sum() < WAITING
    first = order[: late.sum()]
    assert late[first].all()
    assert (np.diff(ages[first]) <= 0.0).all()
    sooner = [place for place in (17, 3) if not late[place]]
    np.testing.assert_array_equal(order[late.sum() :][: len(sooner)], sooner)


@pytest.mark.parametrize("rule", [MEANS, varied(GREEDY[Knob.BALANCED], late_after_s=0.0)])
def test_without_a_bound_or_with_a_budget_no_request_is_late(rule: Greedy) -> None:
    assert not order_and_lateness(random_snapshot(1, RUNNING, WAITING), rule, {})[1].any()


def test_the_late_need_only_the_least_reserve() -> None:
    """A pool with room for one prompt and little else: no request may enter, unless late."""
    snapshot = random_snapshot(2, RUNNING, WAITING)
    requests = snapshot.requests
    oldest = RUNNING + int(np.argmin(requests.arrival_s[RUNNING:]))
    wanted = math.ceil((requests.prompt_tokens[oldest] + requests.generated_tokens[oldest]) / snapshot.facts.block_size)
    least = math.ceil(MEANS.reserve.min_share * snapshot.facts.total_blocks)
    tight = dataclasses.replace(snapshot, free_blocks=wanted + least + 1)
    careful = varied(MEANS, cap_share=0.9, size_scaled=False, tries=1000, z=50.0)
    only_oldest = varied(careful, late_after_s=snapshot.now_s - float(np.sort(requests.arrival_s[RUNNING:])[:2].mean()))
    curves = resolve_curves(snapshot)
    assert oldest not in admissions(tight, careful, curves)
    assert admissions(tight, only_oldest, curves)[0] == oldest
