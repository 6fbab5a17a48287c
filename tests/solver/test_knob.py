"""The one setting that users turn."""

import math

import pytest

from kvhorizon.errors import InputError
from kvhorizon.solver.heuristic.params import GREEDY, KNOBS, PLANNED, Knob, varied


@pytest.mark.parametrize("knob", KNOBS)
def test_the_named_ones_have_rules_and_no_bound(knob: Knob) -> None:
    assert (knob.rule, knob.beside) == (GREEDY[knob], PLANNED[knob])
    assert knob.max_wait_s == math.inf
    assert knob == Knob(str(knob))


def test_a_bound_in_seconds_is_a_late_lane_in_order_of_arrival() -> None:
    knob = Knob("max-wait:30")
    assert knob.max_wait_s == 30.0
    for rule, base in ((knob.rule, GREEDY[Knob.MEANS]), (knob.beside, PLANNED[Knob.MEANS])):
        assert rule == varied(base, late_after_s=30.0)


@pytest.mark.parametrize("text", ["", "fair", "max-wait", "max-wait:", "max-wait:-1", "max-wait:inf", "max-wait:soon"])
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(InputError, match="must be one of means, balanced, strict or max-wait:SECONDS") as refused:
        Knob(text)
    assert (refused.value.field, refused.value.value) == ("knob", text)
