"""Distance to the hindsight bound, as what-if shows it."""

import dataclasses

import numpy as np
from engines import facts, random_trace

from kvhorizon.sim.bound import hindsight_bound_s, over_bound
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup


def test_a_policy_stands_above_the_bound_by_its_mean_latency() -> None:
    setup = Setup(random_trace(3, 40, 40 * 16, 30.0), facts(60))
    policy = parse_policy("fcfs")
    outcome = replay(setup, policy)
    bound_s = hindsight_bound_s(setup)
    assert bound_s is not None
    ratio = over_bound(setup, policy, outcome, bound_s)
    assert ratio == (outcome.finish_s - setup.trace.arrival_s).mean() / bound_s
    assert ratio > 1.0


def test_where_nothing_is_proven_nothing_is_shown() -> None:
    setup = Setup(random_trace(3, 5, 10 * 16, 30.0), facts(60))
    for changed in ({"prefix_caching": True}, {"reload_s_per_token": 1e-6}, {"concurrency": 2}):
        assert hindsight_bound_s(dataclasses.replace(setup, **changed)) is None
    policy = parse_policy("fcfs")
    outcome = replay(setup, policy)
    assert over_bound(setup, policy, outcome, None) is None
    assert over_bound(setup, parse_policy("fcfs:free-recompute"), outcome, 1.0) is None
    unfinished = dataclasses.replace(outcome, finish_s=np.where(np.arange(5) == 0, np.nan, outcome.finish_s))
    assert over_bound(setup, policy, unfinished, 1.0) is None
