"""Sorted-F and A_min: their metric, their batches and their bounds on examples worked by hand."""

from itertools import combinations

import numpy as np
import pytest
from engines import COST, facts, trace

from kvhorizon.models.forecast.survival import Curves, empirical_curve, residual_of
from kvhorizon.sim.policies.baselines import codes
from kvhorizon.sim.policies.baselines.batches import BATCH, batch_keys, batch_metric, best_batch
from kvhorizon.sim.policies.baselines.named import VLLM
from kvhorizon.sim.policies.baselines.peak import output_bound
from kvhorizon.sim.policies.baselines.victim import baseline_score
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay, start
from kvhorizon.sim.setup import Setup

POOL = 160.0
LONG_PROMPTS, SHORT_PROMPTS = [39] * 4, [2] * 16
PROMPTS, OUTPUTS = LONG_PROMPTS + SHORT_PROMPTS, [1] * 4 + [3] * 16


def test_the_metric_prefers_many_small_ones_to_the_shortest_output() -> None:
    """The paper's case against shortest first: four requests of 39 + 1 tokens fill the pool of 160, F = 4 / 4² = 0.25;
    sixteen of 2 + 3 take 80 of it, F = 48 / 16² = 0.1875. The two that then fit as well, at 48 + 2 over 18², win:
    50 / 324 = 0.154."""
    assert batch_metric(4.0, 4) == 0.25
    assert batch_metric(48.0, 16) == 0.1875
    chosen = best_batch(np.array(PROMPTS, float), np.array(OUTPUTS, float), POOL)
    assert sorted(PROMPTS[n] for n in chosen) == [2] * 16 + [39] * 2


def test_batches_follow_one_another_each_in_order_of_output() -> None:
    """Outputs 1, 2, 3 are one batch, F = 6 / 9; 10 would make it 16 / 16 and 11 comes with it: 21 / 4."""
    keys = batch_keys(np.full(5, 4.0), np.array([10.0, 2.0, 11.0, 1.0, 3.0]), 1000.0)
    assert np.argsort(keys).tolist() == [3, 1, 4, 0, 2]
    assert (keys // BATCH).tolist() == [1, 0, 1, 0, 0]


def brute_force(prompt: np.ndarray, output: np.ndarray) -> float:
    """The least F of all batches that fit."""
    sizes = range(1, len(prompt) + 1)
    batches = (np.array(places) for size in sizes for places in combinations(range(len(prompt)), size))
    fitting = (batch for batch in batches if (prompt + output)[batch].sum() <= POOL)
    return min(output[batch].sum() / len(batch) ** 2 for batch in fitting)


def test_batches_found_are_close_to_the_best() -> None:
    """Differential: 60 random queues of ten against all their batches; at worst a quarter above the least F."""
    ratios = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        prompt = np.rint(np.clip(rng.lognormal(2.5, 1.0, 10), 1, 100))
        output = np.rint(np.clip(rng.lognormal(2.0, 1.0, 10), 1, 50))
        chosen = best_batch(prompt, output, POOL)
        assert (prompt + output)[chosen].sum() <= POOL
        ratios.append(batch_metric(output[chosen].sum(), len(chosen)) / brute_force(prompt, output))
    assert min(ratios) >= 1.0 - 1e-9
    assert np.mean(ratios) < 1.02
    assert max(ratios) < 1.25


def test_sorted_f_lets_many_small_ones_pass_the_shortest() -> None:
    """The same queue in the engine: shortest first begins with all four long prompts, Sorted-F with two of them."""
    setup = Setup(trace([0.0] * 20, PROMPTS, OUTPUTS), facts(10, max_num_seqs=20), forecast="oracle")
    first = {name: replay(setup, parse_policy(name)).first_token_s for name in ("sorted-f", "sjf")}
    assert first["sjf"][:3].max() < first["sjf"][4:].min()
    assert first["sorted-f"][4:].min() < np.sort(first["sorted-f"][:4])[2]


def bounds(quantile: float, generated: list[int]) -> list[float]:
    """A_min's bounds of requests that gave so much, half of all outputs being 100 and half 1 000."""
    curve = empirical_curve(np.array([100, 1000] * 50))
    many = len(generated)
    curves = Curves(curve[None], residual_of(curve)[None], np.zeros(many, np.int32), np.ones(many))
    setup = Setup(trace([0.0] * many, [16] * many, [900] * many), facts(200, max_num_seqs=16), max_tokens=2000)
    engine, _ = start(setup, parse_policy("a-min"))
    rules = VLLM._replace(admission=codes.BOUND_PEAK, quantile=quantile).with_notes(many, 16)
    first = [output_bound(engine, curves, rules, n) for n in range(many)]
    engine.columns.generated[:] = generated
    raised = [output_bound(engine, curves, rules, n) for n in range(many)]
    assert all(after == max(before, gave) for before, after, gave in zip(first, raised, generated, strict=True))
    return raised


def test_a_bound_is_a_quantile_until_the_request_proves_longer() -> None:
    """The lower quartile is 100 (the table's grid rounds up by at most 2^(1/16)); having given 300, it is 300."""
    low, raised = bounds(0.25, [20, 300])
    assert 100 <= low <= 105
    assert raised == 300


def test_a_min_gives_up_the_smallest_bound_and_the_later_of_equals() -> None:
    setup = Setup(trace([0.0] * 3, [100] * 3, [50, 40, 40]), facts(), forecast="oracle", max_tokens=1000)
    engine, forecast = start(setup, parse_policy("a-min"))
    rules = VLLM._replace(victim=codes.SMALLEST_BOUND, quantile=0.25).with_notes(3, 16)
    scores = [baseline_score(engine, forecast.curves, rules, COST, n, n) for n in range(3)]
    assert np.argsort(scores).tolist() == [0, 1, 2]


def test_a_min_with_exact_bounds_is_shortest_first_within_the_peak() -> None:
    """As MC-SF on the same 160 tokens: 40 + 60 twice and 8 + 10; the peak of all three does not fit, of two it does."""
    setup = Setup(trace([0.0] * 3, [40, 40, 8], [60, 60, 10]), facts(10), forecast="oracle")
    outcome, other = (replay(setup, parse_policy(name)) for name in ("a-min", "mc-sf"))
    np.testing.assert_array_equal(outcome.finish_s, other.finish_s)
    assert outcome.preemptions.sum() == 0


@pytest.mark.parametrize(("policy", "says"), [("sorted-f:2", "takes nothing"), ("a-min:1", "from 0 to 0.99")])
def test_bad_options_are_refused(policy: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_policy(policy)
