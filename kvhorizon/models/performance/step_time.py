"""Seconds of one engine step, and the coefficients of a model on a GPU.

    t = fixed + smoothmax_p(W, L · T) + A · pairs + K · kv + S · sequences                          [s]
    W = dense weights + expert weights · (1 − (1 − top_k / experts)^T)

T: tokens in the batch; pairs: (query token, context token) of its prefills; kv: KV tokens that its decodes read;
smoothmax_p(a, b) = (a^p + b^p)^(1/p) joins the two bounds of the linear layers, memory and compute (the roofline model:
Williams, Waterman & Patterson, CACM 2009). The share of experts touched is its expectation if tokens choose
independently. Each ideal time is multiplied by a calibrated factor >= 1: dimensionless, so it transfers between models.
The LM head counts as weights read but not as FLOPs here; the factors of the linear layers absorb it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvhorizon.compiled.compiler import compiled
from kvhorizon.errors import InputError
from kvhorizon.models.performance.calibration import Coefficients, calibrated
from kvhorizon.models.performance.flops import attention_flops_per_pair, flops_per_token, linear_flops_per_token
from kvhorizon.models.performance.gpu import Gpu
from kvhorizon.models.performance.shape import ModelShape
from kvhorizon.state import StepCost


@dataclass(frozen=True, slots=True)
class EngineOverhead:
    """What a serving engine adds to the sum of its kernels (scheduling, sampling, detokenizing).

    Source: vLLM 0.12 serving Qwen3-32B on H100, TP 2, 4 and 8, against kernel sums; `experiments/parity/step_time.py`
    fits it.
    """

    step_s: float = 1.3e-3
    sequence_s: float = 3.6e-5


def step_cost(
    shape: ModelShape,
    gpu: Gpu,
    tp: int = 1,
    coefficients: Coefficients | None = None,
    overhead: EngineOverhead | None = None,
) -> StepCost:
    """What `step_seconds` needs, of a model on `tp` GPUs; the calibrated table decides where no coefficients are given.

    Layers with a short sliding window read the whole window at each token: a cost per token and sequence, not per pair.
    Raises InputError where `tp` does not divide the attention heads.
    """
    if tp < 1 or shape.heads % tp:
        raise InputError("tp", tp, f"must be >= 1 and divide the {shape.heads} attention heads")
    coefficients = calibrated(shape, gpu, tp) if coefficients is None else coefficients
    overhead = EngineOverhead() if overhead is None else overhead
    flop_s = 1.0 / (gpu.peak_flops * tp)
    byte_s = 1.0 / gpu.bandwidth_bytes_s
    linear_flops = linear_flops_per_token(shape)
    window_flops = flops_per_token(shape) - linear_flops
    growing_kv_bytes = shape.growing_layers * shape.kv_layer_bytes() * shape.kv_share(tp)
    window_kv_bytes = shape.window_kv_bytes() * shape.kv_share(tp)
    return StepCost(
        fixed_s=coefficients.fixed_s_per_layer * shape.layers + overhead.step_s,
        weights_s=coefficients.weights * shape.streamed_weight_bytes / tp * byte_s,
        expert_weights_s=coefficients.weights * shape.expert_weight_bytes / tp * byte_s,
        experts_per_token=shape.top_k / shape.experts if shape.experts else 0.0,
        linear_s_per_token=(coefficients.linear * linear_flops + coefficients.attention * window_flops) * flop_s,
        smooth=coefficients.smooth,
        attention_s_per_pair=coefficients.attention * attention_flops_per_pair(shape) * shape.growing_layers * flop_s,
        kv_read_s_per_token=coefficients.kv * growing_kv_bytes * byte_s,
        sequence_s=coefficients.sequence_s + overhead.sequence_s + coefficients.kv * window_kv_bytes * byte_s,
        flops_per_token=linear_flops + window_flops,
        flops_per_pair=attention_flops_per_pair(shape) * shape.growing_layers,
    )


@compiled
def smooth_maximum(a, b, p):  # type: ignore[no-untyped-def]
    """(a^p + b^p)^(1/p) of a, b >= 0 and p >= 1, safe against overflow."""
    high = max(a, b)
    low = min(a, b)
    if low < 1e-6 * high or high <= 0.0:
        return high
    return high * (1.0 + (low / high) ** p) ** (1.0 / p)


@compiled
def step_seconds(cost, prefill_tokens, prefill_pairs, decodes, kv_tokens, sequences):  # type: ignore[no-untyped-def]
    """Seconds of a step [s]: `prefill_tokens` with `prefill_pairs` (query, context) pairs, `decodes` requests that
    decode one token each and read `kv_tokens` KV tokens together, `sequences` requests running."""
    tokens = float(prefill_tokens + decodes)
    weights_s = cost.weights_s
    if cost.expert_weights_s > 0.0:
        weights_s += cost.expert_weights_s * (1.0 - (1.0 - cost.experts_per_token) ** tokens)
    return (
        cost.fixed_s
        + smooth_maximum(weights_s, cost.linear_s_per_token * tokens, cost.smooth)
        + cost.attention_s_per_pair * prefill_pairs
        + cost.kv_read_s_per_token * kv_tokens
        + cost.sequence_s * sequences
    )


@compiled
def recompute_seconds(cost, tokens_from, tokens_to):  # type: ignore[no-untyped-def]
    """Marginal seconds [s] of prefilling context positions tokens_from … tokens_to − 1 again; 0 where there are none.

    Linear layers and attention at the compute bound; the steps themselves run anyway, for the other requests.
    """
    tokens = tokens_to - tokens_from
    if tokens <= 0:
        return 0.0
    pairs = tokens * (tokens_from + 0.5 * (tokens + 1))
    return cost.linear_s_per_token * tokens + cost.attention_s_per_pair * pairs


def undoing(cost: StepCost, kept_share: float, reload_s_per_token: float) -> StepCost:
    """Costs with which `recompute_seconds` of a whole context is the price of undoing its eviction:

    reload_s_per_token · k · c  +  (1 − k) · recompute(c)          of c tokens, of which the share k comes back
    """
    gone = 1.0 - kept_share
    linear_s = gone * cost.linear_s_per_token + kept_share * reload_s_per_token
    return cost._replace(linear_s_per_token=linear_s, attention_s_per_pair=gone * cost.attention_s_per_pair)
