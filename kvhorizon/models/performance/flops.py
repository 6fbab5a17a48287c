"""FLOPs of a model's work: 2 per multiply-add, matrix products only, over all GPUs together.

    linear     2 · (active parameters without embedding and LM head)            [FLOP / token]
    LM head    2 · hidden · vocab                                               [FLOP / sampled token]
    attention  2 · heads · (head_dim + value_dim)                               [FLOP / (query, context) pair and layer]
               = 4 · heads · head_dim where values are as wide as keys

A layer with a sliding window attends min(context, window) tokens. MLA counts its uncompressed heads, in prefill and
decode alike. The LM head runs only where a token is sampled, so prefill chunks are charged it once, at their end.
Source: Kaplan et al., "Scaling Laws for Neural Language Models" (2020), table 1; agrees to the last FLOP with vLLM's
`vllm/v1/metrics/perf.py` (release 0.32, tests), but for the pairs inside a chunk, which are counted causally here, for
the routers of experts, which it leaves out, and for what tensor parallelism repeats on every GPU: here it counts once.
"""

from __future__ import annotations

from kvhorizon.errors import InputError
from kvhorizon.models.performance.shape import ModelShape


def linear_flops_per_token(shape: ModelShape) -> float:
    """All projections, feed-forward layers and the top_k experts of one token [FLOP]."""
    return 2.0 * shape.linear_params_per_token


def head_flops(shape: ModelShape) -> float:
    """The LM head for one sampled token [FLOP]."""
    return 2.0 * shape.hidden * shape.vocab


def attention_flops_per_pair(shape: ModelShape) -> float:
    """Scores and weighted values of one (query, context) pair in one layer [FLOP]."""
    return 2.0 * shape.heads * (shape.head_dim + shape.value_head_dim)


def flops_per_token(shape: ModelShape) -> float:
    """Work of a token that does not depend on its context: linear layers and full short windows [FLOP]."""
    saturated_layers = shape.layers - shape.growing_layers
    window = (shape.sliding_window or 0) * saturated_layers
    return linear_flops_per_token(shape) + attention_flops_per_pair(shape) * window


def attention_pairs(start: int, tokens: int, window: int | None = None) -> float:
    """Pairs of the queries at start … start + tokens − 1; the one at i attends min(i + 1, window) tokens [pairs]."""
    end = start + tokens
    if window is None or end <= window:
        return tokens * (start + 0.5 * (tokens + 1))
    inside = max(0, window - start)
    return inside * (start + 0.5 * (inside + 1)) + float(tokens - inside) * window


def attention_flops(shape: ModelShape, start: int, tokens: int) -> float:
    """Attention of `tokens` queries from position `start` over all layers [FLOP]."""
    pairs = shape.full_attention_layers * attention_pairs(start, tokens)
    pairs += shape.windowed_layers * attention_pairs(start, tokens, shape.sliding_window)
    return attention_flops_per_pair(shape) * pairs


def prefill_flops(shape: ModelShape, start: int, tokens: int, sampled: int = 0) -> float:
    """Prefilling positions start … start + tokens − 1, of which the last `sampled` (0 or 1) sample a token [FLOP]."""
    if start < 0 or tokens < 0:
        raise InputError("start, tokens", (start, tokens), "must be >= 0")
    return linear_flops_per_token(shape) * tokens + attention_flops(shape, start, tokens) + head_flops(shape) * sampled


def decode_flops(shape: ModelShape, context: int) -> float:
    """Decoding one token that attends `context` >= 1 tokens, itself among them [FLOP]."""
    if context < 1:
        raise InputError("context", context, "must be >= 1")
    return prefill_flops(shape, context - 1, 1, sampled=1)


def recompute_flops(shape: ModelShape, context: int, cached: int = 0) -> float:
    """Prefilling a context of `context` tokens again, the first `cached` of which are in the prefix cache [FLOP].

    Raises InputError unless 0 <= cached <= context.
    """
    if not 0 <= cached <= context:
        raise InputError("cached", cached, f"must be within 0 and context={context}")
    return prefill_flops(shape, cached, context - cached)
