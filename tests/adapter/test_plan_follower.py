"""A plan's admissions go first in its order, as far as they still wait; a stale plan and a foreign one say nothing."""

import numpy as np
from fakes import request

from kvhorizon.adapter.control.plan_follower import PlanFollower
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.solver.expiry import PLAN_MAX_AGE_S, DatedPlan
from kvhorizon.state import Plan, Source

EPOCH = 7


def plan(admissions: list[int], at_steps: list[float], epoch: int = EPOCH, evictions: list[int] | None = None) -> Plan:
    nothing = np.zeros(0)
    return Plan(
        engine_epoch=epoch,
        based_on_revision=1,
        source=Source.PROGRAM,
        admissions=np.array(admissions, np.uint64),
        admit_at_steps=np.array(at_steps),
        evictions=np.array(evictions or [], np.uint64),
        bucket_steps=nothing,
        block_prices=nothing,
    )


def rows_of(count: int) -> Rows:
    """Requests of handles 1 … count, all waiting but the first."""
    rows = Rows(8, Forecaster().tables, capacity=16)
    for number in range(count):
        rows.add(request(f"r{number}"), 0.0, 50, 0)
    rows.take(rows.slot_of["r0"], 0.0)
    return rows


def ranks(rows: Rows) -> dict[str, int]:
    return {name: int(rows.scratch.rank[slot]) for name, slot in rows.slot_of.items() if rows.scratch.rank[slot]}


def test_those_to_be_admitted_now_are_ranked_in_its_order() -> None:
    """Handle 1 runs already, 99 is over, 3 is planned for later."""
    rows, follower = rows_of(6), PlanFollower(EPOCH)
    assert follower.look(DatedPlan(plan([5, 1, 99, 3, 2], [0.0, 0.0, 0.0, 8.0, 0.0]), 1.0), rows, 1.0)
    assert ranks(rows) == {"r4": 1, "r1": 2}
    assert follower.fresh
    assert follower.look(DatedPlan(plan([4], [0.0]), 1.5), rows, 1.5)
    assert ranks(rows) == {"r3": 1}
    assert (follower.serial, follower.counts["program"]) == (2, 2)


def test_a_plan_is_followed_until_its_state_is_two_seconds_old() -> None:
    """Made from the state of 1.0 s and taken up at 2.5 s, it holds until 3.0 s: not two seconds from then."""
    rows, follower = rows_of(3), PlanFollower(EPOCH)
    one = DatedPlan(plan([2], [0.0]), 1.0)
    assert follower.look(one, rows, 2.5)
    assert (PLAN_MAX_AGE_S, follower.expires_s) == (2.0, 3.0)
    assert not follower.look(one, rows, 3.0)
    assert follower.fresh
    assert follower.look(one, rows, 3.001)
    assert not follower.fresh
    assert ranks(rows) == {}
    assert follower.counts == {"program": 1, "stale": 1}
    assert not follower.look(one, rows, 3.002), "it is not taken up again"


def test_a_plan_that_comes_too_late_is_never_followed() -> None:
    rows, follower = rows_of(3), PlanFollower(EPOCH)
    assert not follower.look(DatedPlan(plan([2], [0.0]), 1.0), rows, 3.001)
    assert not follower.fresh
    assert ranks(rows) == {}
    assert follower.counts == {"stale": 1}


def test_a_plan_that_comes_too_late_does_not_keep_an_older_one_in_force() -> None:
    rows, follower = rows_of(3), PlanFollower(EPOCH)
    assert follower.look(DatedPlan(plan([2], [0.0]), 1.0), rows, 1.0)
    assert follower.look(DatedPlan(plan([3], [0.0]), 1.5), rows, 3.6)
    assert not follower.fresh
    assert ranks(rows) == {}
    assert follower.counts == {"program": 1, "stale": 2}


def test_a_plan_for_another_engine_is_none() -> None:
    rows, follower = rows_of(3), PlanFollower(EPOCH)
    assert not follower.look(DatedPlan(plan([2], [0.0], epoch=EPOCH - 1), 1.0), rows, 1.0)
    assert not follower.fresh
    assert follower.counts == {"foreign": 1}


def test_only_the_running_are_evicted() -> None:
    rows, follower = rows_of(3), PlanFollower(EPOCH)
    assert follower.evictions(rows) == []
    follower.look(DatedPlan(plan([], [], evictions=[2, 1, 99]), 1.0), rows, 1.0)
    assert follower.evictions(rows) == [rows.slot_of["r0"]]


def test_whoever_took_the_place_of_a_request_that_is_over_is_not_ranked() -> None:
    """Requests 2 and 3 are looked up, then 2 ends and a newcomer gets its slot."""
    rows, follower = rows_of(3), PlanFollower(EPOCH)
    coming = plan([2, 3], [0.0, 0.0])
    follower.prepare(coming, rows)
    slot = rows.release("r1")
    assert rows.add(request("new"), 0.0, 50, 0) == slot
    assert follower.look(DatedPlan(coming, 1.0), rows, 1.0)
    assert ranks(rows) == {"r2": 1}
