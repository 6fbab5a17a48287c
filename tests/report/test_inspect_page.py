"""The page of an inspection: what is drawn is what is in the trace."""

import dataclasses

import numpy as np
import pytest
from engines import facts, random_trace, trace

from kvhorizon.report.inspect_page import arrivals, demand, lengths, tenants
from kvhorizon.whatif.inspection import inspect

FACTS = facts(400, 16, 64, 512)


@pytest.mark.parametrize("span_s", [0.0, 7.0, 3600.0, 90_000.0])
def test_every_arrival_is_in_one_bar(span_s: float) -> None:
    """Rates times the length of a bar add up to the requests; an hour has bars of a minute."""
    load = random_trace(3, 500, 1000, 1.0)
    load = dataclasses.replace(load, arrival_s=load.arrival_s * span_s / load.arrival_s[-1])
    bars = arrivals(load).figure.data[0]
    bar_min = 2.0 * bars.x[0]
    assert float(np.sum(bars.y)) * bar_min == pytest.approx(500)
    assert 1 <= len(bars.x) <= 601
    if span_s == 3600.0:
        assert (len(bars.x), bar_min) == (60, 1.0)


def test_every_length_is_counted() -> None:
    drawn = lengths(random_trace(3, 500, 1000, 1.0))
    assert [float(np.sum(line.y)) for line in drawn.figure.data] == pytest.approx([1.0, 1.0], abs=1e-3)
    one = lengths(trace([0.0], [1], [1])).figure.data
    assert [float(np.sum(line.y)) for line in one] == [1.0, 1.0]


def test_tenants_are_drawn_where_there_are_several() -> None:
    load = random_trace(3, 100, 1000, 1.0)
    assert tenants(inspect(load, FACTS)) is None
    drawn = tenants(inspect(dataclasses.replace(load, key=np.arange(100) % 4), FACTS))
    assert drawn is not None
    assert [float(np.sum(bar.y)) for bar in drawn.figure.data] == pytest.approx([1.0, 1.0], abs=1e-3)


def test_demand_is_told_against_the_pool() -> None:
    """One request of 100 + 100 tokens: 7 of 13 blocks when it comes, in a pool of 10 it is over at 160 tokens."""
    drawn = demand(trace([0.0], [100], [100]), facts(10), 0.1)
    assert drawn.figure.data[0].y[0] == pytest.approx(100 / 16, abs=0.1)
    assert "above that for 40 % of the time" in drawn.says
