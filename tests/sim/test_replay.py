"""The simulated engine: hand-sized schedules, conservation of tokens and blocks, exact skipping, no look ahead."""

import dataclasses

import numpy as np
import pytest
from engines import facts, random_trace, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.models.forecast.of_a_trace import make_forecast
from kvhorizon.sim.engine.advance import FINISHED, advance
from kvhorizon.sim.engine.arrays import DONE, FREE, NOW, RUNNING, WAITING
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay, start
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.solver.heuristic.scratch import new_scratch

POLICIES = ["fcfs", "watermark:0.05", "fcfs:free-recompute", "kvhorizon:greedy/means", "kvhorizon:greedy", "kvhorizon"]
BASELINES = [
    *("reserve-max", "sglang", "past-future", "sjf", "srpt", "srpt:inf", "mc-sf", "ltr", "ltr:preemptive", "lcf"),
    *("cost-aware", "flops-per-mb", "admission:ours", "admission:ours/means", "victims:ours", "victims:remaining-time"),
]


def test_one_request_takes_a_step_per_token() -> None:
    """Prompt 20 in one step that also gives the first token, then 4 more steps: 5 steps, no preemption."""
    outcome = replay(Setup(trace([0.0], [20], [5]), facts()), parse_policy("fcfs"))
    assert outcome.steps == 5
    assert outcome.preemptions.tolist() == [0]
    assert outcome.makespan_s == outcome.finish_s[0] == outcome.busy_s


def test_prefill_is_chunked_by_the_token_budget() -> None:
    """600 prompt tokens at 256 a step: 3 steps to the first token, then one more for the second."""
    assert replay(Setup(trace([0.0], [600], [2]), facts()), parse_policy("fcfs")).steps == 4


def test_the_last_request_is_preempted_and_prefilled_again() -> None:
    """Pool of 4 blocks of 16; two prompts of 30 fill it. Both decode 2 tokens into their blocks' rest (31, 32), then
    the first needs a third block: the second is preempted with 32 tokens computed, and when the first has its 8 tokens,
    it prefills those 32 again."""
    small = dataclasses.replace(facts(total_blocks=4), max_model_len=64)
    outcome = replay(Setup(trace([0.0, 0.0], [30, 30], [8, 8]), small), parse_policy("fcfs"))
    assert outcome.preemptions.tolist() == [0, 1]
    assert outcome.recompute_tokens.tolist() == [0, 32]
    assert outcome.recompute_s > 0.0


def test_no_request_is_admitted_in_a_step_that_preempted() -> None:
    """As above with a third, tiny request: it fits beside the first once the second is preempted, but must wait for
    the queue's new head."""
    small = dataclasses.replace(facts(total_blocks=4), max_model_len=64)
    outcome = replay(Setup(trace([0.0, 0.0, 0.0], [30, 30, 2], [8, 8, 1]), small), parse_policy("fcfs"))
    assert outcome.first_token_s[2] > outcome.finish_s[0]


def test_a_prefill_that_lacks_one_token_is_not_yet_decoding() -> None:
    """49 prompt tokens at 48 a step leave one: its step gives the first token, and counts as one."""
    outcome = replay(Setup(trace([0.0], [49], [3]), facts(batched=48)), parse_policy("fcfs"))
    assert outcome.steps == 4
    assert 0.0 < outcome.first_token_s[0] < outcome.finish_s[0]


def test_the_watermark_keeps_blocks_free() -> None:
    """Pool of 10, watermark 0.3 keeps int(0.3 · 11) = 3 free while something runs: 4 + 4 blocks do not fit together."""
    setup = Setup(trace([0.0, 0.0], [60, 60], [2, 2]), facts(total_blocks=10))
    plain, watermark = (replay(setup, parse_policy(name)) for name in ("fcfs", "watermark:0.3"))
    assert plain.first_token_s[1] == plain.first_token_s[0]
    assert watermark.first_token_s[1] > watermark.finish_s[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    policy=st.sampled_from(POLICIES),
    blocks=st.integers(20, 120),
    block_size=st.sampled_from([1, 8, 16, 64]),
    seqs=st.integers(1, 40),
    batched=st.integers(48, 600),
    rate=st.sampled_from([0.5, 5.0, 1e6]),
)
def test_every_token_is_counted_once_and_every_block_comes_back(
    seed: int, policy: str, blocks: int, block_size: int, seqs: int, batched: int, rate: float
) -> None:
    """Whatever the policy and the pool, each request ends with exactly its output, and the pool ends free."""
    engine_facts = facts(blocks, block_size, seqs, max(batched, seqs))
    load = random_trace(seed, 300, blocks * block_size, rate)
    setup = Setup(load, engine_facts, forecast="noisy:0.6", seed=seed)
    outcome, engine = run_to_end(setup, policy)
    assert outcome == FINISHED
    assert (engine.columns.generated == load.output_tokens).all()
    assert engine.counters[FREE] == blocks
    assert engine.counters[RUNNING] == engine.counters[WAITING] == 0
    assert (engine.columns.blocks == 0).all()
    assert sorted(engine.lists.finished.tolist()) == list(range(len(load)))
    assert (engine.live.first_token_s >= load.arrival_s).all()
    assert (engine.live.finish_s >= engine.live.first_token_s).all()
    assert (engine.live.recompute_tokens[engine.columns.preemptions == 0] == 0).all()


def run_to_end(setup: Setup, name: str, skip: bool = True, check_every_s: float = np.inf):
    """Drive the compiled loop, checking at each pause that blocks held and free blocks make up the pool."""
    policy = parse_policy(name)
    engine, forecast = start(setup, policy)
    size = len(setup.trace), setup.facts.max_num_seqs
    scratch, plugin = new_scratch(*size), policy.plugin.at_work(*size, setup.facts.cost)
    until_s = check_every_s
    while True:
        reason = advance(engine, forecast.curves, plugin, setup.facts.cost, scratch, until_s, 1 << 40, skip)
        assert engine.columns.blocks.sum() + engine.counters[FREE] == setup.facts.total_blocks
        assert engine.counters[RUNNING] <= setup.facts.max_num_seqs
        if reason == FINISHED:
            return reason, engine
        until_s = engine.clock[NOW] + check_every_s


@pytest.mark.parametrize("policy", [*POLICIES, *BASELINES])
def test_no_block_leaks_at_any_moment(policy: str) -> None:
    setup = Setup(random_trace(3, 500, 60 * 16, 3.0), facts(60), forecast="noisy:0.6")
    run_to_end(setup, policy, check_every_s=0.05)


@pytest.mark.parametrize("policy", ["fcfs", "watermark:0.05", "fcfs:free-recompute"])
@pytest.mark.parametrize("rate", [0.5, 3.0, 1e6])
def test_skipping_changes_nothing(policy: str, rate: float) -> None:
    """Step by step and with event skipping: the same preemptions, steps and (to rounding) times."""
    setup = Setup(random_trace(7, 600, 80 * 16, rate), facts(80))
    _, fast = run_to_end(setup, policy, skip=True)
    _, slow = run_to_end(setup, policy, skip=False)
    assert (fast.counters[:DONE] == slow.counters[:DONE]).all()
    assert (fast.columns.preemptions == slow.columns.preemptions).all()
    assert (fast.live.recompute_tokens == slow.live.recompute_tokens).all()
    np.testing.assert_allclose(fast.live.finish_s, slow.live.finish_s, rtol=1e-9)
    np.testing.assert_allclose(fast.live.first_token_s, slow.live.first_token_s, rtol=1e-9)


def same_run(setup: Setup, policy: str) -> None:
    """As `test_skipping_changes_nothing`, for any setup."""
    _, fast = run_to_end(setup, policy, skip=True)
    _, slow = run_to_end(setup, policy, skip=False)
    assert (fast.lists.finished == slow.lists.finished).all()
    assert (fast.columns.preemptions == slow.columns.preemptions).all()
    np.testing.assert_allclose(fast.live.finish_s, slow.live.finish_s, rtol=1e-9)


def test_skipping_changes_nothing_with_priorities() -> None:
    load = random_trace(7, 400, 80 * 16, 3.0)
    ranked = dataclasses.replace(load, priority=np.random.default_rng(0).integers(0, 3, 400))
    same_run(Setup(ranked, facts(80)), "priority")


def test_skipping_changes_nothing_with_prefix_caching() -> None:
    load = synthesize("agentic", 150, 0)
    setup = Setup(load, dataclasses.replace(facts(4000), max_model_len=64_000), prefix_caching=True)
    same_run(setup, "fcfs")


def test_skipping_changes_nothing_where_decodes_exceed_the_budget() -> None:
    """16 requests may run, but a step has only 12 tokens."""
    same_run(Setup(random_trace(7, 300, 80 * 16, 30.0), facts(400, batched=12)), "fcfs")


@pytest.mark.parametrize("policy", ["kvhorizon:greedy", "kvhorizon:greedy/means", "fcfs"])
def test_no_decision_looks_ahead(policy: str) -> None:
    """Poison: lengths of requests that have not finished by a moment do not change anything before that moment."""
    load = random_trace(11, 400, 60 * 16, 3.0)
    setup = Setup(load, facts(60), forecast="history")
    honest = replay(setup, parse_policy(policy))
    moment = float(np.median(honest.finish_s))
    unfinished = honest.finish_s > moment
    seen = np.where(np.isnan(honest.first_token_s), 0, honest.first_token_s)
    poisoned_output = np.where(unfinished & (seen > moment), 1 + load.output_tokens[::-1] % 300, load.output_tokens)
    poisoned = replay(
        dataclasses.replace(setup, trace=dataclasses.replace(load, output_tokens=poisoned_output)), parse_policy(policy)
    )
    before = honest.first_token_s <= moment
    assert unfinished.any()
    assert (poisoned_output != load.output_tokens).any()
    assert (poisoned.first_token_s[before] == honest.first_token_s[before]).all()
    assert (poisoned.finish_s[~unfinished] == honest.finish_s[~unfinished]).all()


def test_two_replays_are_identical() -> None:
    setup = Setup(random_trace(5, 400, 60 * 16, 3.0), facts(60), forecast="noisy:0.6", seed=3)
    first, second = (replay(setup, parse_policy("kvhorizon:greedy")) for _ in range(2))
    np.testing.assert_array_equal(first.finish_s, second.finish_s)
    np.testing.assert_array_equal(first.timeline, second.timeline)


def test_the_greedy_preempts_less_than_first_come_first_served() -> None:
    """A pool of some 40 average requests: shares of it are worth more than one request's growth."""
    setup = Setup(random_trace(5, 1500, 120 * 16, 30.0), facts(1200, 16, 256, 2048), forecast="noisy:0.6")
    plain, ours = (replay(setup, parse_policy(name)) for name in ("fcfs", "kvhorizon:greedy"))
    assert plain.preemptions.sum() > 50
    assert ours.preemptions.sum() < 0.7 * plain.preemptions.sum()


def test_recompute_costs_the_reference_nothing() -> None:
    setup = Setup(random_trace(5, 800, 80 * 16, 3.0), facts(80))
    plain, free = (replay(setup, parse_policy(name)) for name in ("fcfs", "fcfs:free-recompute"))
    assert free.preemptions.sum() > 0
    assert free.recompute_s == 0.0 < plain.recompute_s
    assert free.makespan_s <= plain.makespan_s


def test_a_closed_loop_keeps_its_concurrency() -> None:
    """With 3 under way at most, the fourth arrives when the first finishes."""
    setup = Setup(trace([0.0] * 5, [20] * 5, [4, 9, 9, 9, 9]), facts(), concurrency=3)
    outcome = replay(setup, parse_policy("fcfs"))
    assert outcome.timeline[:, 2:].sum(axis=1).max() <= 3
    assert (outcome.first_token_s[3:] > outcome.finish_s[0]).all()


def test_forecasts_of_unknown_kind_are_refused() -> None:
    load = random_trace(1, 10, 100, 1.0)
    with pytest.raises(ValueError, match="psychic"):
        make_forecast(
            "psychic",
            prompt_tokens=load.prompt_tokens,
            key=load.key,
            output_limit=load.output_tokens,
            true_output_tokens=load.output_tokens,
            seed=0,
        )
