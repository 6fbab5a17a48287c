"""Other people's schedulers: each rule's decision on an example worked by hand from its paper or code."""

import dataclasses

import numpy as np
import pytest
from engines import COST, facts, random_trace, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.models.forecast.survival import Curves, empirical_curve, residual_of
from kvhorizon.sim.policies.baselines import codes
from kvhorizon.sim.policies.baselines.admission import decayed_ratio, retracted_ratio
from kvhorizon.sim.policies.baselines.named import BASELINES, VLLM
from kvhorizon.sim.policies.baselines.peak import future_peak, insert, quantile_remaining, take_out, uniform
from kvhorizon.sim.policies.baselines.victim import baseline_score, cost_aware, thrifty
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay, start
from kvhorizon.sim.setup import Setup


def first_come(outcome) -> list[int]:
    """Requests in order of their first token."""
    return np.argsort(outcome.first_token_s, kind="stable").tolist()


@pytest.mark.parametrize(("baseline", "engine"), [("victims:lifo", "watermark:0.02"), ("lifo", "fcfs")])
def test_a_plugin_with_the_engines_own_rules_changes_nothing(baseline: str, engine: str) -> None:
    """Order QUEUE, admission PROMPT_ONLY, victim LAST is vLLM, decision by decision."""
    setup = Setup(random_trace(5, 800, 80 * 16, 3.0), facts(80))
    policy = parse_policy("victims:lifo")
    policy = policy if baseline == "victims:lifo" else dataclasses.replace(policy, watermark_share=0.0)
    guided, alone = replay(setup, policy), replay(setup, parse_policy(engine))
    assert alone.preemptions.sum() > 0
    assert (guided.preemptions == alone.preemptions).all()
    assert guided.steps == alone.steps
    np.testing.assert_allclose(guided.finish_s, alone.finish_s, rtol=1e-9)


@pytest.mark.parametrize(("max_tokens", "together"), [(64, True), (65, False)])
def test_reserve_max_reserves_the_largest_output(max_tokens: int, together: bool) -> None:
    """Pool of 10 blocks of 16: 16 prompt + 64 output tokens are 5 blocks, with 65 they are 6."""
    setup = Setup(trace([0.0, 0.0], [16, 16], [5, 5]), facts(10), max_tokens=max_tokens)
    outcome = replay(setup, parse_policy("reserve-max"))
    assert (outcome.first_token_s[1] == outcome.first_token_s[0]) == together


def test_reserve_max_never_evicts() -> None:
    outcome = replay(Setup(random_trace(5, 400, 60 * 16, 3.0), facts(60)), parse_policy("reserve-max"))
    assert outcome.preemptions.sum() == 0


def test_the_new_token_ratio_decays_from_070_to_0098_in_600_steps() -> None:
    """0.7 · 0.14 = 0.098; half way 0.399; at conservativeness 0.5 it begins at 0.35."""
    assert decayed_ratio(0.7, 600, 1.0) == pytest.approx(0.098)
    assert decayed_ratio(0.7, 300, 1.0) == pytest.approx(0.399)
    assert decayed_ratio(0.7, 10_000, 1.0) == pytest.approx(0.098)
    assert decayed_ratio(0.35, 300, 0.5) == pytest.approx(0.1995)


def test_a_retraction_sets_the_ratio_to_the_progress_of_those_left() -> None:
    """(100 generated + 20 steps · 5 requests) / (999 + 1) = 0.2; never above 1."""
    assert retracted_ratio(100, 999, 5) == pytest.approx(0.2)
    assert retracted_ratio(100, 150, 5) == 1.0


def test_sglang_reserves_all_the_output_of_what_it_has_just_admitted() -> None:
    """Pool of 320 tokens; four prompts of 32 with at most 64 output need 32 + 64 + 16 = 112 each. The second sees
    288 − 64 = 224 left, the third 256 − 128 = 128, the fourth 224 − 192 = 32: three enter."""
    setup = Setup(trace([0.0] * 4, [32] * 4, [40] * 4), facts(20), max_tokens=64)
    first = replay(setup, parse_policy("sglang")).first_token_s
    assert (first[:3] == first[0]).all()
    assert first[3] > first[0]


def test_the_future_peak_of_three() -> None:
    """(held, to come) = (10, 5), (20, 3), (5, 1): max(10 + 5, 30 + 3 · 2, 35 + 1 · 3) = 38, one step ahead."""
    assert future_peak(np.array([10.0, 20.0, 5.0]), np.array([5.0, 3.0, 1.0]), 3) == 38.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 60)), min_size=1, max_size=12))
def test_the_future_peak_is_that_of_running_the_batch(batch: list[tuple[int, int]]) -> None:
    """Differential: insertion in any order and the closed formula against stepping until all have ended."""
    context, remaining = np.zeros(len(batch) + 1), np.zeros(len(batch) + 1)
    for size, (held, to_come) in enumerate(batch):
        insert(context, remaining, size, float(held), float(to_come))
    place = insert(context, remaining, len(batch), 7.0, 30.0)
    take_out(context, remaining, len(batch) + 1, place)
    stepped = max(sum(held + t for held, to_come in batch if to_come >= t) for t in range(1, 61))
    assert future_peak(context, remaining, len(batch)) == stepped


def test_drawn_lengths_follow_what_is_known() -> None:
    """Half of all outputs are 100, half 1 000 tokens: the lower quartile is 100; past 200 only 800 more are possible.
    The table's grid rounds up by at most 2^(1/16)."""
    curve = empirical_curve(np.array([100, 1000] * 50))
    curves = Curves(curve[None], residual_of(curve)[None], np.zeros(1, np.int32), np.ones(1))
    assert 100 <= quantile_remaining(curves, 0, 0, 0.25, 4096) <= 105
    assert 1000 <= quantile_remaining(curves, 0, 0, 0.75, 4096) <= 1045
    assert 800 <= quantile_remaining(curves, 0, 200, 0.01, 4096) <= 845
    assert quantile_remaining(curves, 0, 0, 0.75, 512) == 512
    draws = [uniform(n, step) for n in range(40) for step in range(25)]
    assert np.histogram(draws, 4, (0, 1))[0] == pytest.approx(250, abs=50)


def test_mc_sf_takes_the_shortest_while_the_peak_fits() -> None:
    """160 tokens; two of 40 + 60 and one of 8 + 10. The short one and the first long one peak at 48 + 60 = 108; both
    long ones would at 96 + 2 · 60 = 216, so the second waits until the first all but ends, and no request is
    preempted."""
    setup = Setup(trace([0.0] * 3, [40, 40, 8], [60, 60, 10]), facts(10), forecast="oracle")
    outcome = replay(setup, parse_policy("mc-sf"))
    assert outcome.first_token_s[0] == outcome.first_token_s[2]
    assert outcome.first_token_s[1] >= outcome.finish_s[0]
    assert outcome.preemptions.sum() == 0
    assert replay(setup, parse_policy("fcfs")).preemptions.sum() > 0


def test_past_future_with_all_of_the_pool_reserved_runs_one_at_a_time() -> None:
    setup = Setup(trace([0.0] * 3, [20] * 3, [5] * 3), facts(20), forecast="oracle")
    serial, packed = (replay(setup, parse_policy(f"past-future:{share}")) for share in (0.9, 0.0))
    assert serial.first_token_s[1] > serial.finish_s[0]
    assert packed.first_token_s[2] == packed.first_token_s[0]


def test_sjf_serves_in_order_of_length() -> None:
    setup = Setup(trace([0.0] * 4, [20] * 4, [30, 10, 20, 5]), facts(20, max_num_seqs=1), forecast="oracle")
    assert first_come(replay(setup, parse_policy("sjf"))) == [3, 1, 2, 0]


@pytest.mark.parametrize(("policy", "evictions"), [("srpt", [1, 0]), ("srpt:0", [0, 0]), ("sjf", [0, 0])])
def test_srpt_evicts_the_longer_for_the_shorter(policy: str, evictions: list[int]) -> None:
    """One seat; 200 tokens run when 5 arrive. Allowed to preempt, the 5 come first and the 200 are prefilled again."""
    setup = Setup(trace([0.0, 0.3], [20, 20], [200, 5]), facts(20, max_num_seqs=1), forecast="oracle")
    outcome = replay(setup, parse_policy(policy))
    assert outcome.preemptions.tolist() == evictions
    assert (outcome.finish_s[1] < outcome.finish_s[0]) == (evictions[0] == 1)


def test_srpt_lets_finish_what_is_mostly_done() -> None:
    """After 56 of 100 tokens 44 are left, more than the newcomer's 30; but more than half is done."""
    setup = Setup(trace([0.0, 0.6], [20, 20], [100, 30]), facts(20, max_num_seqs=1), forecast="oracle")
    assert replay(setup, parse_policy("srpt")).preemptions.tolist() == [0, 0]
    assert replay(setup, parse_policy("srpt:inf")).preemptions.tolist() == [1, 0]


def test_ltr_promotes_who_waited_200_steps() -> None:
    """One seat; a request of 5 steps arrives every 4½ and ranks above the one of 50 that was there first. After 40 of
    them, 200 steps, it is its turn, since they wait for less; without promotion it comes last."""
    arrivals = [0.0, *(0.05 * k for k in range(60))]
    setup = Setup(trace(arrivals, [4] * 61, [50] + [5] * 60), facts(20, max_num_seqs=1), forecast="oracle")
    promoted, starved = (first_come(replay(setup, parse_policy(name))).index(0) for name in ("ltr", "sjf"))
    assert promoted == 40
    assert starved == 60


@pytest.mark.parametrize(("policy", "evictions"), [("ltr:preemptive", [1, 0]), ("srpt:inf", [0, 0])])
def test_ltr_ranks_by_all_of_the_output_and_not_by_what_is_left(policy: str, evictions: list[int]) -> None:
    """After 56 of 100 tokens 44 are left, fewer than the newcomer's 60; but 100 rank below 60."""
    setup = Setup(trace([0.0, 0.6], [20, 20], [100, 60]), facts(20, max_num_seqs=1), forecast="oracle")
    assert replay(setup, parse_policy(policy)).preemptions.tolist() == evictions


def scores(victim: int, prompt: list[int], generated: list[int]) -> list[float]:
    """Victim scores of requests that run with these tokens, all computed."""
    setup = Setup(trace([0.0] * len(prompt), prompt, [900] * len(prompt)), facts(), forecast="oracle", max_tokens=1000)
    engine, forecast = start(setup, parse_policy("lcf"))
    engine.columns.generated[:] = generated
    engine.columns.computed[:] = np.add(prompt, generated)
    engine.columns.blocks[:] = np.ceil(np.add(prompt, generated) / 16)
    rules = VLLM._replace(victim=victim).with_notes(len(prompt), 16)
    return [baseline_score(engine, forecast.curves, rules, COST, n, n) for n in range(len(prompt))]


def test_sglang_retracts_the_fewest_outputs_then_the_longest_prompt() -> None:
    assert np.argmax(scores(codes.FEWEST_OUTPUT, [900, 100, 300], [50, 20, 20])) == 2


def test_lcf_gives_up_the_least_computed() -> None:
    assert np.argmax(scores(codes.LEAST_COMPUTED, [900, 100, 300], [50, 220, 10])) == 2


def test_cost_aware_scores_blocks_per_token_times_what_is_left() -> None:
    """S(r) = B / T · (1 − O / M) of vLLM pull request 56897: 4 / 50 · (1 − 10 / 100) = 0.072."""
    assert cost_aware(4, 50, 10, 100) == pytest.approx(0.072)
    assert np.argmax(scores(codes.COST_AWARE, [160, 144], [16, 32])) == 0  # the same blocks and tokens, less progress


def test_flops_per_block_hardly_tells_contexts_apart() -> None:
    """2 000 tokens against 160: attention makes a block of the longer context dearer by (a + b · 1000)/(a + b · 80)."""
    short, long = scores(codes.FLOPS_PER_BLOCK, [160, 2000], [0, 0])
    a, b = COST.flops_per_token, COST.flops_per_pair
    assert short / long == pytest.approx((a + b * 1000.5) / (a + b * 80.5), rel=1e-6)


def test_the_longest_to_come_goes_first() -> None:
    assert np.argmax(scores(codes.MOST_REMAINING, [100, 100], [800, 20])) == 1


def test_thrifty_weighs_what_is_lost_against_what_is_to_come() -> None:
    """√400 · 1 / 100^(5/4) = 20 / 316.2; half as likely to be unfinished counts 16 times less."""
    assert thrifty(100.0, 400.0, 1.0) == pytest.approx(0.063246, rel=1e-4)
    assert thrifty(100.0, 400.0, 0.5) == pytest.approx(0.063246 / 16, rel=1e-4)


def test_thrifty_spares_who_is_past_four_fifths() -> None:
    """Of 900 tokens each, with prompts of 100, 20 and 20: 730 are past 80 %, 715 are not, whatever it costs."""
    assert np.argmax(scores(codes.THRIFTY, [100, 20, 20], [715, 730, 725])) == 0
    assert np.argmax(scores(codes.THRIFTY, [100, 20, 20], [100, 100, 300])) == 1


def test_evictions_near_the_end_are_counted() -> None:
    """As in the engine's tests, but the second is preempted with 11 of its 12 tokens."""
    small = dataclasses.replace(facts(total_blocks=4), max_model_len=64)
    outcome = replay(Setup(trace([0.0, 0.0], [22, 22], [20, 12]), small), parse_policy("fcfs"))
    assert outcome.preemptions.tolist() == [0, 1]
    assert outcome.near_end_preemptions == 1


def test_our_reserve_at_the_engines_order_preempts_less() -> None:
    setup = Setup(random_trace(5, 800, 60 * 16, 20.0), facts(400, max_num_seqs=128), forecast="noisy:0.6")
    watermark, ours = (replay(setup, parse_policy(name)) for name in ("watermark:0.02", "admission:ours"))
    assert watermark.preemptions.sum() > 30
    assert ours.preemptions.sum() < 0.7 * watermark.preemptions.sum()


@pytest.mark.parametrize("name", ["victims:ours" if name == "victims" else name for name in sorted(BASELINES)])
def test_every_baseline_repeats(name: str) -> None:
    policy = "admission:ours" if name == "admission" else name
    setup = Setup(random_trace(9, 250, 40 * 16, 20.0), facts(40), forecast="noisy:0.6", seed=3)
    first, second = (replay(setup, parse_policy(policy)) for _ in range(2))
    np.testing.assert_array_equal(first.finish_s, second.finish_s)
