"""Async scheduling: hand-sized schedules; whatever is scheduled, everyone ends and every block comes back."""

import dataclasses

import numpy as np
import pytest
from engines import facts, random_trace, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.sim.engine.advance import FINISHED, advance
from kvhorizon.sim.engine.arrays import FREE, RUNNING, WAITING
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay, start
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.heuristic.scratch import new_scratch

FCFS = parse_policy("fcfs")


def setup(ahead: bool, prompts: list[int], outputs: list[int], **options: object) -> Setup:
    """All requests at time 0."""
    return Setup(trace([0.0] * len(prompts), prompts, outputs), facts(), async_scheduling=ahead, **options)


def test_a_step_more_is_decided_before_a_stop_is_seen() -> None:
    """Prompt 20, output 5: five steps give the tokens, and a sixth is under way when the fifth's is seen to be the
    last. That token comes when it would without async scheduling."""
    ahead, behind = (replay(setup(kind, [20], [5]), FCFS) for kind in (True, False))
    assert (ahead.steps, behind.steps) == (6, 5)
    assert ahead.finish_s[0] == pytest.approx(behind.finish_s[0])
    assert ahead.first_token_s[0] == pytest.approx(behind.first_token_s[0])


def test_no_step_more_where_the_limit_is_reached() -> None:
    """The client asked for 5 tokens: 20 + 4 are computed, where a stop by itself takes one more."""
    cost = facts().cost
    limited, stopped = (replay(setup(True, [20], [5], max_tokens=most), FCFS) for most in (5, 64))
    last = cost.flops_per_token + cost.flops_per_pair * 25
    assert stopped.flops - limited.flops == pytest.approx(last)


def test_who_awaits_the_last_token_keeps_blocks() -> None:
    """Pool of 4 blocks of 16; requests of 30 + 2, 3 + 8 and 30 + 2 tokens, so that the third waits for the first.

    Its end is known after the second step: the third is in the third step, or, when that was decided already, in the
    fourth, while the second request's tokens come all the same.
    """
    small = dataclasses.replace(facts(total_blocks=4), max_model_len=64)
    requests = trace([0.0] * 3, [30, 3, 30], [2, 8, 2])
    ahead, behind = (
        replay(Setup(requests, small, async_scheduling=kind, max_tokens=8), FCFS) for kind in (True, False)
    )
    assert ahead.finish_s[0] == pytest.approx(behind.finish_s[0])
    assert ahead.first_token_s[2] > behind.first_token_s[2]
    assert ahead.preemptions.sum() == behind.preemptions.sum() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), caching=st.booleans())
def test_everyone_ends_and_every_block_comes_back(seed: int, caching: bool) -> None:
    requests, tight = random_trace(seed, 40, 600, 20.0), facts(total_blocks=40)
    case = Setup(requests, tight, async_scheduling=True, prefix_caching=caching)
    engine, forecast = start(case, FCFS)
    scratch = new_scratch(len(requests), tight.max_num_seqs)
    plugin = FCFS.plugin.at_work(len(requests), tight.max_num_seqs, tight.cost)
    assert advance(engine, forecast.curves, plugin, tight.cost, scratch, np.inf, 1 << 40, True) == FINISHED
    assert engine.columns.generated.tolist() == requests.output_tokens.tolist()
    assert engine.counters[RUNNING] == engine.counters[WAITING] == 0
    assert engine.counters[FREE] == tight.total_blocks
