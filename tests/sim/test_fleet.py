"""Engines behind a router: one is a replay as any other; who gives up leaves; routers do what they say."""

import dataclasses

import numpy as np
import pytest
from engines import facts, random_trace

from kvhorizon.errors import InputError
from kvhorizon.sim.fleet.engines import Fleet, keys_of, play
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup

TRACE = random_trace(7, 240, 120 * 16, 20.0)
SETUP = Setup(TRACE, facts(300, 16, 32, 512), forecast="noisy:0.6")


@pytest.mark.parametrize("policy", ["fcfs", "watermark:0.05", "kvhorizon:greedy", "sjf"])
@pytest.mark.parametrize("router", ["round-robin", "least-kv", "prefix"])
def test_one_engine_is_a_replay_as_any_other(policy: str, router: str) -> None:
    chosen = parse_policy(policy)
    alone, fleet = replay(SETUP, chosen), play(SETUP, chosen, Fleet(1, router))
    for name in ("first_token_s", "finish_s", "preemptions", "recompute_tokens"):
        np.testing.assert_array_equal(getattr(fleet, name), getattr(alone, name), err_msg=name)
    assert (fleet.steps, fleet.busy_s, fleet.makespan_s) == (alone.steps, alone.busy_s, alone.makespan_s)


def test_more_engines_wait_less_and_the_router_matters() -> None:
    """At a load with queues that come and go, knowing what engines hold beats taking turns."""
    chosen = parse_policy("fcfs")
    easier = dataclasses.replace(SETUP, trace=dataclasses.replace(TRACE, arrival_s=5.0 * TRACE.arrival_s))
    waits = {
        (count, router): float((play(easier, chosen, Fleet(count, router)).finish_s - easier.trace.arrival_s).mean())
        for count in (1, 2, 4)
        for router in ("round-robin", "least-kv")
    }
    assert waits[4, "round-robin"] < waits[2, "round-robin"] < waits[1, "round-robin"]
    assert waits[2, "least-kv"] < waits[2, "round-robin"]


def test_round_robin_is_two_replays_of_every_other_request() -> None:
    chosen = parse_policy("fcfs")
    found = play(SETUP, chosen, Fleet(2))
    for part in (0, 1):
        rows = slice(part, None, 2)
        columns = {name: getattr(TRACE, name)[rows] for name in ("arrival_s", "prompt_tokens", "output_tokens", "key")}
        half = dataclasses.replace(SETUP, trace=dataclasses.replace(TRACE, **columns))
        np.testing.assert_array_equal(found.finish_s[rows], replay(half, chosen).finish_s)


def test_what_begins_alike_goes_to_one_engine() -> None:
    shared = tuple(np.array([n % 5, n]) for n in range(len(TRACE)))
    trace = dataclasses.replace(TRACE, prefix_hashes=shared, prefix_tokens=16)
    assert sorted(set(keys_of(trace).tolist())) == [0, 1, 2, 3, 4]
    assert keys_of(TRACE) is TRACE.key
    setup = dataclasses.replace(SETUP, trace=trace, prefix_caching=True)
    chosen = parse_policy("fcfs")
    hits = {router: play(setup, chosen, Fleet(4, router)).cached_tokens for router in ("round-robin", "prefix")}
    assert hits["prefix"] > hits["round-robin"] > 0


def test_who_gives_up_leaves_and_may_come_again() -> None:
    chosen = parse_policy("fcfs")
    patient = replay(SETUP, chosen)
    wait_s = patient.first_token_s - TRACE.arrival_s
    patience_s = float(np.percentile(wait_s, 60))
    once = play(SETUP, chosen, Fleet(patience_s=patience_s))
    served = np.isfinite(once.finish_s)
    assert 0.3 < served.mean() < 1.0
    waited = (once.first_token_s - TRACE.arrival_s)[np.isfinite(once.first_token_s)]
    assert waited.max() <= patience_s + 1.0  # a step may be under way
    assert np.array_equal(served, np.isfinite(once.first_token_s))
    again = play(SETUP, chosen, Fleet(patience_s=patience_s, retries=3))
    assert np.isfinite(again.finish_s).sum() > served.sum()
    endless = play(SETUP, chosen, Fleet(patience_s=1e8))
    np.testing.assert_array_equal(endless.finish_s, patient.finish_s)


@pytest.mark.parametrize(
    ("fleet", "says"),
    [
        (Fleet(0), "replicas=0"),
        (Fleet(65), "replicas=65"),
        (Fleet(router="random"), "router='random'"),
        (Fleet(patience_s=0.0), "patience-s=0.0"),
        (Fleet(retries=11), "retries=11"),
    ],
)
def test_bad_fleets_are_told(fleet: Fleet, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fleet.check()
