"""The guardrail on synthetic engines: heavy tails raise no alarm, harm does, and stepping back grows longer."""

import copy
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvhorizon.adapter.accounting.recomputation import Accounting
from kvhorizon.adapter.guardrail.evidence import ENOUGH, MARGINS, RENEWAL, Evidence, alike
from kvhorizon.adapter.guardrail.guardrail import Guardrail
from kvhorizon.adapter.guardrail.meter import Meter, Seen
from kvhorizon.adapter.guardrail.schedule import back_off, coin, gap
from kvhorizon.adapter.modes import Mode, Switch
from tests.adapter.fakes import request, scheduler

STEP_S = 0.25
HOUR_S = 3600.0


class Stream:
    """An engine's counts, whose traffic drifts, bursts and has heavy tails; in place of a `Meter`.

    `harm` multiplies waiting and divides tokens while control decides, from `harm_from_s` on.
    """

    def __init__(
        self, seed: int, hours: float, harm: float = 1.0, harm_from_s: float = 0.0, waits: float = 8.0
    ) -> None:
        rng = np.random.default_rng(seed)
        count = int(hours * HOUR_S / STEP_S)
        slow = np.sin(np.arange(count) * STEP_S * 2 * np.pi / 5400.0)
        noise = rng.standard_normal(count // 8 + 1).repeat(8)[:count]  # of two seconds
        bursts = (rng.pareto(1.5, count // 40 + 1)).repeat(40)[:count]  # of ten seconds, without a variance
        self.waiting = waits * np.exp(0.5 * slow + 0.3 * noise) * (1.0 + bursts)
        self.arrived = rng.poisson(STEP_S * 4.0 * np.exp(0.3 * slow))
        self.tokens = rng.poisson(STEP_S * 600.0 * np.exp(0.1 * noise))
        self.preempted = rng.poisson(STEP_S * 0.5, count) * (waits > 0.0)
        self.harm, self.harm_from_s = harm, harm_from_s
        self.guardrail: Guardrail | None = None
        self.total = Seen(0.0, 0, 0, 0, 0, 0, 0.0, 0.0)
        self.place = 0

    def step(self, now_s: float) -> None:
        here, total, self.place = self.place, self.total, self.place + 1
        assert self.guardrail is not None
        harmed = not self.guardrail.native and now_s >= self.harm_from_s
        harm, came = self.harm if harmed else 1.0, int(self.arrived[here])
        self.total = Seen(
            now_s,
            total.arrived + came,
            total.started + came,
            total.finished + came,
            total.tokens + round(int(self.tokens[here]) / harm),
            total.preemptions + int(self.preempted[here]),
            total.waiting_s + float(self.waiting[here]) * harm * STEP_S,
            total.active_s + 16.0 * STEP_S,
        )

    def read(self, now_s: float) -> Seen:
        return self.total


def watched(seed: int, hours: float, stop: bool = True, **more: Any) -> tuple[Guardrail, float, float]:
    """The guardrail after so long, or as it steps back; when that is, and the share of steps that were vLLM's own."""
    stream: Any = Stream(seed, hours, **more)
    guardrail = stream.guardrail = Guardrail(stream, seed)
    native = 0
    for place in range(len(stream.waiting)):
        guardrail.step(place * STEP_S, Mode.OBSERVE if guardrail.native else Mode.CONTROL)
        native += guardrail.native
        if stop and guardrail.stepped_back:
            break
    return guardrail, place * STEP_S, native / (place + 1)


@pytest.mark.parametrize("seed", range(12))
def test_ten_hours_in_which_control_is_no_worse_raise_no_alarm(seed: int) -> None:
    guardrail, _, native = watched(seed, 10.0)
    assert guardrail.switch_offs == 0
    assert guardrail.pairs["counted"] > 100
    assert 0.02 < native < 0.06  # a few percent


@pytest.mark.parametrize("seed", range(3))
def test_harm_within_the_margin_is_borne(seed: int) -> None:
    assert watched(seed, 5.0, harm=1.03)[0].switch_offs == 0


@pytest.mark.parametrize("seed", range(6))
def test_harm_from_the_start_is_stopped_within_two_minutes(seed: int) -> None:
    guardrail, at_s, _ = watched(seed, 0.2, harm=1.5)
    assert guardrail.stepped_back
    assert at_s <= 120.0


def test_harm_that_begins_late_is_stopped_too() -> None:
    guardrail, at_s, _ = watched(0, 6.0, harm=1.5, harm_from_s=5.0 * HOUR_S)
    assert guardrail.stepped_back
    assert 5.0 * HOUR_S < at_s < 5.0 * HOUR_S + 900.0


def test_it_tries_again_ever_more_seldom_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    guardrail, _, native = watched(0, 5.0, stop=False, harm=2.0)
    lines = [record.getMessage() for record in caplog.records]
    told = [line.rsplit("for ", 1)[1] for line in lines if "did worse" in line]
    assert told[:5] == ["10 minutes", "20 minutes", "40 minutes", "80 minutes", "160 minutes"]
    assert guardrail.switch_offs == len(told) == 5
    assert native > 0.95
    assert sum("tried again" in line for line in lines) == 4
    assert "pairs of windows" in lines[0]
    assert back_off(back_off(80_000.0)) == 86_400.0


def test_where_nothing_waits_vllm_is_never_left_alone() -> None:
    guardrail, _, native = watched(0, 1.0, harm=2.0, waits=0.0)
    assert native == 0.0
    assert not any(guardrail.pairs.values())


def test_windows_whose_mode_was_changed_from_outside_do_not_count() -> None:
    stream: Any = Stream(0, 1.0, harm=2.0)
    guardrail = stream.guardrail = Guardrail(stream)
    for place in range(len(stream.waiting)):
        guardrail.step(place * STEP_S, Mode.OFF)
    assert guardrail.switch_offs == guardrail.pairs["counted"] == 0


def test_a_pair_with_an_idle_gap_is_spoilt() -> None:
    stream: Any = Stream(0, 1.0)
    guardrail = stream.guardrail = Guardrail(stream)
    for place in range(400):
        guardrail.step(place * 30.0, Mode.OBSERVE if guardrail.native else Mode.CONTROL)
    assert guardrail.pairs["counted"] == 0


def seen(**more: Any) -> Seen:
    return Seen(2.0, 10, 10, 10, 1000, 0, 20.0, 40.0)._replace(**more)


@given(st.lists(st.booleans(), max_size=30))
def test_a_fair_coin_gains_the_renewal_and_no_more(past: list[bool]) -> None:
    """Whatever came before: the mean of both outcomes is what was there, and the renewal."""
    before = Evidence()
    same, worse = seen(), seen(waiting_s=90.0, active_s=80.0, tokens=500, preemptions=9)
    for bad in past:
        before.add(worse if bad else same, same)
    after = [copy.deepcopy(before) for _ in range(2)]
    after[0].add(worse, same)
    after[1].add(same, same)
    assert np.mean([one.against for one in after]) == pytest.approx(before.against + RENEWAL)


def test_of_many_fair_bettors_hardly_any_gets_enough() -> None:
    """Ten hours of some 300 pairs: seven in a thousand at most, though each pair is a coin thrown with all measures."""
    rng = np.random.default_rng(0)
    same, worse = seen(), seen(waiting_s=90.0, active_s=80.0, tokens=500, preemptions=9)
    rich = 0
    for _ in range(400):
        evidence = Evidence()
        for bad in rng.random(300) < 0.5:
            evidence.add(worse if bad else same, same)
            if evidence.against >= ENOUGH:
                rich += 1
                break
    assert rich <= 8  # Poisson of mean 2.7 at most: more in one run of 500


def test_each_measure_can_tell() -> None:
    worse = seen(waiting_s=30.0, active_s=50.0, tokens=700, preemptions=9)
    for margin in MARGINS:
        assert margin.exceeded(worse, seen())
        assert not margin.exceeded(seen(), worse)
        assert not margin.exceeded(seen(), seen())


@given(*[st.integers(0, 60)] * 6)
def test_alike_does_not_depend_on_the_arm(came: int, other: int, ended: int, also: int, here: int, there: int) -> None:
    one, two = seen(arrived=came, finished=ended), seen(arrived=other, finished=also)
    assert alike(one, two, (here, there)) == alike(two, one, (there, here))


def test_unequal_loads_are_told_from_clients_that_wait() -> None:
    burst, calm = seen(arrived=60, finished=10), seen(arrived=6, finished=10)
    assert not alike(burst, calm, (20, 20))
    assert alike(seen(arrived=60, finished=60), seen(arrived=6, finished=6), (20, 20))  # one came as one went
    assert not alike(seen(), seen(), (10, 100))


def test_the_coin_is_fair_and_no_pattern() -> None:
    throws = np.array([coin(7, pair) for pair in range(4000)])
    assert throws.mean() == pytest.approx(0.5, abs=0.03)
    assert (throws[1:] == throws[:-1]).mean() == pytest.approx(0.5, abs=0.03)
    assert [coin(1, pair) for pair in range(20)] != [coin(2, pair) for pair in range(20)]


def test_the_share_of_vllm_alone_falls_to_three_percent() -> None:
    assert [gap(pairs, suspect=False) for pairs in (0, 23, 24, 34, 500)] == [0, 0, 0, 10, 30]
    assert gap(500, suspect=True) == 0


def test_the_meter_counts_as_littles_law_wants_it() -> None:
    """One runs from 0 s, one waits till 3 s, both are over at 4 s: 3 s waited, 4 + 1 s active."""
    engine = scheduler()
    accounting = Accounting(None, SimpleNamespace())  # type: ignore[arg-type]
    one, two = request("a", output=3), request("b")
    engine.requests, engine.running = {"a": one, "b": two}, [one]
    meter = Meter(engine, accounting)
    for now_s in (0.0, 1.0, 2.0, 3.0):
        meter.step(now_s)
    engine.running = [one, two]
    meter.step(4.0)
    engine.requests, engine.running = {}, []
    one.num_output_tokens = two.num_output_tokens = 7
    accounting.release(one)
    accounting.release(two)
    meter.step(9.0)
    found = meter.read(9.0)
    assert (found.waiting_s, found.active_s) == (3.0, 5.0)
    assert (found.arrived, found.started, found.finished, found.tokens) == (2, 2, 2, 14)


def test_it_says_who_decides_only_while_control_is_chosen() -> None:
    switch = Switch(Mode.CONTROL)
    guardrail = Guardrail(SimpleNamespace())  # type: ignore[arg-type]
    switch.guard(guardrail)
    assert switch.watched
    assert switch.mode(0.0) is Mode.CONTROL
    guardrail.native = True
    assert switch.mode(0.0) is Mode.OBSERVE
    switch.chosen = Mode.ADVISE
    assert switch.mode(0.0) is Mode.ADVISE
    switch.toggle()
    assert switch.mode(0.0) is Mode.OFF
