"""Step time: the kernel against numpy, laws of any cost, and plausible magnitudes."""

from dataclasses import replace

import numpy as np
import pytest
from data import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.errors import InputError
from kvhorizon.models.performance.calibration import Coefficients, calibrated, table
from kvhorizon.models.performance.gpu import preset
from kvhorizon.models.performance.shape import builtin
from kvhorizon.models.performance.step_time import (
    EngineOverhead,
    recompute_seconds,
    smooth_maximum,
    step_cost,
    step_seconds,
)
from kvhorizon.state import StepCost

COSTS = [
    step_cost(builtin(model), preset(gpu), tp)
    for model, gpu, tp in [
        ("llama-3.1-8b", "a100-40gb", 1),
        ("llama-3.1-70b", "h100-80gb", 4),
        ("qwen3-30b-a3b", "h200", 1),
        ("gpt-oss-20b", "l4-24gb", 1),
    ]
]
WORK = st.tuples(
    st.integers(0, 8192), st.floats(0, 1e9), st.integers(0, 512), st.floats(0, 1e7), st.integers(0, 1024)
)  # fmt: skip


def numpy_step_seconds(c: StepCost, prefill: float, pairs: float, decodes: float, kv: float, sequences: float) -> float:
    """The docstring of `models.performance.step_time`, written again."""
    tokens = prefill + decodes
    weights = c.weights_s + c.expert_weights_s * -np.expm1(tokens * np.log1p(-min(c.experts_per_token, 1 - 1e-16)))
    linear = np.linalg.norm([weights, c.linear_s_per_token * tokens], ord=c.smooth)
    return float(
        np.dot([c.attention_s_per_pair, c.kv_read_s_per_token, c.sequence_s], [pairs, kv, sequences])
        + linear
        + c.fixed_s
    )


@settings(max_examples=80, deadline=None)
@given(cost=st.sampled_from(COSTS), work=WORK)
def test_kernel_matches_its_numpy_twin(cost: StepCost, work: tuple) -> None:
    assert step_seconds(cost, *work) == pytest.approx(numpy_step_seconds(cost, *work), rel=1e-5)


@settings(max_examples=80, deadline=None)
@given(cost=st.sampled_from(COSTS), work=WORK, more=WORK)
def test_more_work_takes_no_less_time(cost: StepCost, work: tuple, more: tuple) -> None:
    both = tuple(a + b for a, b in zip(work, more, strict=True))
    assert step_seconds(cost, *both) >= step_seconds(cost, *work) * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(a=st.floats(0, 1e3), b=st.floats(0, 1e3), p=st.floats(1, 8))
def test_smooth_maximum_lies_between_maximum_and_sum(a: float, b: float, p: float) -> None:
    joined = smooth_maximum(a, b, p)
    assert max(a, b) * (1 - 1e-9) <= joined <= (a + b) * (1 + 1e-9)
    assert joined == smooth_maximum(b, a, p)


def test_recompute_by_hand_and_in_parts() -> None:
    """Positions 2, 3, 4: 3 tokens of 10 s and 12 pairs of 1 s; nothing left is free."""
    cost = StepCost(fixed_s=5.0, weights_s=7.0, linear_s_per_token=10.0, attention_s_per_pair=1.0)
    assert recompute_seconds(cost, 2, 5) == 42.0
    assert recompute_seconds(cost, 5, 5) == recompute_seconds(cost, 6, 5) == 0.0
    assert recompute_seconds(cost, 0, 5) == recompute_seconds(cost, 0, 2) + recompute_seconds(cost, 2, 5)


def test_cost_of_ideal_hardware_by_hand() -> None:
    """Llama-3.1-8B on an H200 at factors 1: 7.50e9 · 2 weight bytes over 4.8 TB/s, 2 · 6.98e9 FLOP over 989 TFLOP/s,
    131072 KV bytes per token and 4·32·128·32 FLOP per pair."""
    ideal = Coefficients(0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 2.0)
    cost = step_cost(builtin("llama-3.1-8b"), preset("h200"), 1, ideal, EngineOverhead(0.0, 0.0))
    assert cost.fixed_s == cost.expert_weights_s == cost.sequence_s == 0.0
    assert cost.weights_s == pytest.approx(3.127e-3, rel=1e-3)
    assert cost.linear_s_per_token == pytest.approx(1.4114e-5, rel=1e-3)
    assert cost.kv_read_s_per_token == pytest.approx(131072 / 4.8e12)
    assert cost.attention_s_per_pair == pytest.approx(524288 / 989e12)


def test_tensor_parallelism_divides_the_work() -> None:
    ideal = Coefficients(0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 2.0)
    one, four = (step_cost(builtin("llama-3.1-70b"), preset("h200"), tp, ideal) for tp in (1, 4))
    for part in ("weights_s", "linear_s_per_token", "attention_s_per_pair", "kv_read_s_per_token"):
        assert getattr(four, part) == pytest.approx(getattr(one, part) / 4)
    assert four.flops_per_token == one.flops_per_token
    with pytest.raises(InputError, match="tp=3, must be >= 1 and divide the 64 attention heads"):
        step_cost(builtin("llama-3.1-70b"), preset("h200"), 3)


def test_a_batch_of_one_reads_few_experts() -> None:
    """Qwen3-30B-A3B: 8 of 128 experts for one token, nearly all for 64 tokens (1 − (15/16)^64 = 0.984)."""
    cost = COSTS[2]
    read_s = [step_seconds(cost, 0, 0.0, n, 0.0, 0) - step_seconds(cost, 0, 0.0, 0, 0.0, 0) for n in (1, 64)]
    assert read_s[0] == pytest.approx(cost.expert_weights_s / 16 + cost.linear_s_per_token, rel=1e-6)
    assert read_s[1] == pytest.approx(0.984 * cost.expert_weights_s + 64 * cost.linear_s_per_token, rel=1e-3)


def test_models_not_measured_borrow_from_their_kind() -> None:
    """Mixtral takes the factors of the mixture of experts measured on the GPU, Qwen2.5-7B the dense median."""
    h200 = preset("h200")
    assert calibrated(builtin("mixtral-8x7b"), h200, 1) == calibrated(builtin("qwen3-30b-a3b"), h200, 1)
    dense = [row.coefficients.linear for row in table() if row.family == "h200" and not row.moe]
    assert calibrated(builtin("qwen2.5-7b-instruct"), h200, 1).linear == np.median(dense)
    assert calibrated(replace(builtin("llama-3.1-70b"), name="fine-tuned"), h200, 4).weights == 1.722
    assert calibrated(builtin("llama-3.1-70b"), h200, 8) == calibrated(builtin("llama-3.1-70b"), h200, 4)
    experts = [row.coefficients.linear for row in table() if row.moe]
    assert calibrated(builtin("gpt-oss-20b"), preset("l4-24gb"), 1).linear == np.median(experts)  # none measured there


def test_table_is_physical() -> None:
    for row in table():
        c = row.coefficients
        assert min(c.weights, c.linear, c.attention, c.kv, c.smooth) >= 1.0
        assert min(c.fixed_s_per_layer, c.sequence_s) >= 0.0


def test_shipped_coefficients_predict_the_measured_kernels() -> None:
    """All points that fit into the GPU, pooled: below 6 %."""
    pytest.importorskip("scipy")
    shared_data()
    from experiments.parity.step_time_fit import load, relative_error

    samples = load()
    errors = [np.abs(relative_error(s, calibrated(s.shape, s.gpu, s.tp))) for s in samples]
    assert len(samples) == 13
    assert np.concatenate(errors).mean() < 0.06
