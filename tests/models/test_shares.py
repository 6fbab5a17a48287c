"""Factors of tenants by hand: half of what was agreed weighs half, and no request is weighed down while alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvhorizon.models.slo.classes import read_classes
from kvhorizon.models.slo.tenant_shares import NO_SHARE, ledger_of, share_factors


def factors(share: list[float], held: list[float], waits: list[bool]) -> list[float]:
    return share_factors(np.array(share), np.array(held), np.array(waits)).tolist()


def test_by_hand() -> None:
    """Of 100 blocks: 80 where 40 were agreed, 20 where 50 were; the third has no share and holds nothing."""
    assert factors([0.4, 0.5, NO_SHARE], [80.0, 20.0, 0.0], [True] * 3) == [0.5, 1.0, 1.0]
    assert factors([0.4, 0.5, NO_SHARE], [0.0, 20.0, 80.0], [True] * 3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("waits", "found"), [([False, True], [0.4, 1.0]), ([True, False], [1.0, 1.0])])
def test_a_lone_tenant_may_have_it_all(waits: list[bool], found: list[float]) -> None:
    assert factors([0.4, 0.5], [100.0, 0.0], waits) == found
    assert factors([0.4, 0.5], [0.0, 0.0], waits) == [1.0, 1.0]


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 1000), st.booleans()), min_size=1, max_size=6))
def test_factors_are_within_zero_and_one_and_fall_with_what_is_held(tenants: list[tuple[float, int, bool]]) -> None:
    share, held, waits = (list(column) for column in zip(*tenants, strict=True))
    before = factors(share, [float(one) for one in held], waits)
    assert all(0.0 < one <= 1.0 for one in before)
    more = [float(held[0] + 100), *map(float, held[1:])]
    if sum(held) and sum(one > 0 or waiting for one, waiting in zip(held, waits, strict=True)) > 1:
        assert factors(share, more, waits)[0] <= before[0] + 1e-12


def test_tenants_by_name() -> None:
    ledger = ledger_of(("b", "?", "a"), read_classes({"tenants": {"a": {"share": 0.25}}}))
    ledger.see(np.array([2, 0]), np.array([50, 50], np.int32), np.array([1]))
    assert ledger.factor.tolist() == [1.0, 1.0, 0.5]
