"""The bound of the late lane, by hand and in whole replays."""

import numpy as np
import pytest
from engines import facts, random_trace, trace

from kvhorizon.sim.arrays import ARRIVED, FREE, FRONTIER, NOW, RUNNING, STEPS
from kvhorizon.sim.lane import forget_queue, look_on
from kvhorizon.sim.policies import Policy, parse_policy
from kvhorizon.sim.replay import replay, start
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.steer import Guest
from kvhorizon.solver.greedy import GREEDY, Knob

BLOCKS, BLOCK = 100, 16
LATE = GREEDY[Knob.MEANS]._replace(late_virtual=True, late_after_s=0.0, late_steps=0.0)


def test_the_wait_of_virtual_first_come_first_served_by_hand() -> None:
    """Four requests of work 10·(20 + 5) = 250 token·steps. The first runs alone: full is 250, so the backlog must fall
    below 125 for the next to join. 80 tokens in use take 80 a step off it."""
    setup = Setup(trace([0.0, 1.0, 2.0, 3.0], [20] * 4, [10] * 4), facts(BLOCKS, BLOCK), forecast="oracle")
    engine, forecast = start(setup, parse_policy("kvhorizon:greedy"))

    def look(now_s: float, steps: int, arrived: int) -> float:
        engine.clock[NOW], engine.counters[STEPS], engine.counters[ARRIVED] = now_s, steps, arrived
        return float(look_on(engine, forecast.curves, LATE))

    engine.counters[RUNNING], engine.lists.running[0] = 1, 0
    engine.counters[FREE] = BLOCKS - 5  # 80 tokens in use
    assert look(3.0, 0, 4) == 3.0  # the first joins with a wait of 3 s; backlog 250 is above 125
    assert engine.lane[FRONTIER] == 1
    assert look(4.0, 1, 4) == 3.0  # 170
    assert engine.lane[FRONTIER] == 1
    assert look(9.0, 2, 4) == 8.0  # 90: the second, here since 1 s, joins; 340
    assert engine.lane[FRONTIER] == 2
    assert look(10.0, 3, 4) == 8.0
    forget_queue(engine)
    assert engine.lane[FRONTIER] == 4
    assert look(99.0, 50, 4) == 8.0  # nobody is left to wait


def test_a_rule_without_it_is_told_of_no_wait() -> None:
    setup = Setup(trace([0.0], [20], [10]), facts(), forecast="oracle")
    engine, forecast = start(setup, parse_policy("kvhorizon:greedy"))
    engine.clock[NOW] = 9.0
    assert look_on(engine, forecast.curves, GREEDY[Knob.MEANS]) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_lane_bounds_the_longest_wait(seed: int) -> None:
    """Under a lasting overload the longest wait for a first token is shorter than by the same rule without the lane."""
    setup = Setup(random_trace(seed, 800, 60 * 16, 6.0), facts(60), forecast="noisy:0.6")
    longest = {}
    for name, rule in (("means", GREEDY[Knob.MEANS]), ("lane", LATE)):
        outcome = replay(setup, Policy(name, guest=Guest(True, rule)))
        assert np.isfinite(outcome.finish_s).all()
        longest[name] = (outcome.first_token_s - setup.trace.arrival_s).max()
    assert longest["lane"] < longest["means"]


@pytest.mark.parametrize("seconds", [2.0, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_served_much_later_than_first_come_first_served_would(seed: int, seconds: float) -> None:
    """Under a lasting overload of a tiny pool the longest wait is that of first-come-first-served and the bound, and a
    seventh for another packing of the pool; without the bound it is longer."""
    setup = Setup(random_trace(seed, 800, 60 * 16, 1.0), facts(60), forecast="noisy:0.6")
    first = {name: replay(setup, parse_policy(name)).first_token_s for name in
             ("fcfs", "kvhorizon:greedy/means", f"kvhorizon:greedy/max-wait:{seconds:g}")}  # fmt: skip
    fcfs, free, bounded = first.values()
    longest = (fcfs - setup.trace.arrival_s).max()
    assert (bounded - setup.trace.arrival_s).max() < 1.15 * longest + seconds
    assert (free - setup.trace.arrival_s).max() > 1.15 * longest + seconds
