"""FLOPs by hand, and laws that any shape keeps."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.errors import InputError
from kvhorizon.models.performance import flops as cost
from kvhorizon.models.performance.shape import ModelShape, builtin

TOY = ModelShape(
    "toy", layers=1, hidden=4, heads=2, kv_heads=1, head_dim=2, intermediate=8, vocab=10, max_position=64
)  # fmt: skip
SHAPES = [builtin(name) for name in ("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v3", "mistral-7b-v0.1")]


def test_toy_by_hand() -> None:
    """144 linear parameters, head 40, and 4·2·2 = 16 FLOP per pair.

    Prefilling positions 2, 3, 4 makes 3 + 4 + 5 = 12 pairs: 2·144·3 + 16·12 = 1056.
    Decoding at context 5: 288 + 80 + 16·5 = 448.
    """
    assert cost.prefill_flops(TOY, start=2, tokens=3) == 1056
    assert cost.prefill_flops(TOY, start=2, tokens=3, sampled=1) == 1056 + 80
    assert cost.decode_flops(TOY, context=5) == 448


def test_window_limits_the_pairs() -> None:
    """Window 4, positions 2 … 6 attend 3, 4, 4, 4, 4 tokens; from position 9 on all attend 4."""
    assert cost.attention_pairs(2, 5, window=4) == 19
    assert cost.attention_pairs(9, 3, window=4) == 12
    assert cost.attention_pairs(2, 5) == 3 + 4 + 5 + 6 + 7


def test_latent_attention_by_its_own_dimensions() -> None:
    """DeepSeek-V3: 128 heads, keys 128 + 64 wide, values 128: 2·128·(192 + 128)."""
    assert cost.attention_flops_per_pair(builtin("deepseek-v3")) == 81920


def test_a_cached_prefix_costs_nothing() -> None:
    shape = SHAPES[0]
    assert cost.recompute_flops(shape, 1000, cached=1000) == 0
    whole = cost.prefill_flops(shape, 0, 400) + cost.recompute_flops(shape, 1000, cached=400)
    assert cost.recompute_flops(shape, 1000) == pytest.approx(whole)


def test_bad_arguments_name_field_and_value() -> None:
    with pytest.raises(InputError, match="cached=7, must be within 0 and context=5"):
        cost.recompute_flops(TOY, 5, cached=7)
    with pytest.raises(InputError, match="context=0"):
        cost.decode_flops(TOY, 0)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    start=st.integers(0, 9000),
    first=st.integers(1, 600),
    second=st.integers(1, 600),
)
def test_chunks_add_up_and_decodes_are_chunks_of_one(shape: ModelShape, start: int, first: int, second: int) -> None:
    whole = cost.prefill_flops(shape, start, first + second)
    parts = cost.prefill_flops(shape, start, first) + cost.prefill_flops(shape, start + first, second)
    assert parts == pytest.approx(whole, rel=1e-12)
    one = cost.prefill_flops(shape, start, 1, sampled=1)
    assert cost.decode_flops(shape, start + 1) == one
    assert cost.decode_flops(shape, start + 1 + first) >= one


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 50), tokens=st.integers(0, 50), window=st.integers(1, 60))
def test_pairs_match_the_sum_over_queries(start: int, tokens: int, window: int) -> None:
    assert cost.attention_pairs(start, tokens, window) == sum(min(i + 1, window) for i in range(start, start + tokens))
