"""Which evictions of a plan are carried out: the plan's first, within gates, and with a budget requests out of order
only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.solver.evictions import Asked, Gates, Pool, carried_out
from kvhorizon.solver.heuristic.params import KNOBS, PLANNED, Knob

TOTAL = 1000
FULL = Pool(40, TOTAL, 20)  # 96 % of it
FREE, BUDGETED = PLANNED[Knob.MEANS], PLANNED[Knob.BALANCED]


def asked(*requests: tuple[int, float, int]) -> Asked:
    """Each by its slot, seconds since it was let in, and whether it overtook."""
    slot, resident_s, out_of_order = zip(*requests, strict=True) if requests else ((), (), ())
    return Asked(np.array(slot, np.int64), np.array(resident_s, float), np.array(out_of_order, np.uint8))


def test_the_plans_first_goes_if_it_ran_for_long_enough() -> None:
    assert carried_out(asked((7, 2.0, 0), (3, 60.0, 0)), FULL, FREE, Gates()).tolist() == [7]
    assert carried_out(asked((7, 1.9, 0), (3, 60.0, 0)), FULL, FREE, Gates()).tolist() == []
    assert carried_out(asked(), FULL, FREE, Gates()).tolist() == []


@pytest.mark.parametrize("pool", [Pool(41, TOTAL, 20), Pool(0, TOTAL, 1)])
def test_no_request_goes_while_there_is_room_or_from_a_batch_of_one(pool: Pool) -> None:
    assert carried_out(asked((7, 60.0, 1)), pool, FREE, Gates()).tolist() == []


def test_a_budget_of_reordering_gives_back_what_it_granted_only() -> None:
    assert carried_out(asked((7, 60.0, 0)), FULL, BUDGETED, Gates()).tolist() == []
    assert carried_out(asked((7, 60.0, 1)), FULL, BUDGETED, Gates()).tolist() == [7]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.floats(0.0, 5.0), st.integers(0, 1)), max_size=4),
    st.integers(0, 100),
    st.integers(0, 4),
    st.sampled_from(KNOBS),
    st.floats(0.9, 1.0),
    st.floats(0.0, 4.0),
)
def test_it_is_who_comes_first_or_no_request(wanted, free, running, knob, occupancy, residency_s) -> None:  # type: ignore[no-untyped-def]
    """Against a reading of the gates one by one."""
    gone = carried_out(asked(*wanted), Pool(free, TOTAL, running), PLANNED[knob], Gates(occupancy, residency_s))
    full = free <= (1.0 - occupancy) * TOTAL
    allowed = [wanted[0][0]] if wanted and full and running >= 2 else []
    if allowed and (wanted[0][1] < residency_s or (knob != Knob.MEANS and not wanted[0][2])):
        allowed = []
    assert gone.tolist() == allowed
