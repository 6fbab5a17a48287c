"""Our cost model against vLLM's own `ModelMetrics`, from the same configuration, to the last FLOP.

Three differences are known and taken out exactly, so that the tolerance is that of float arithmetic alone:

* vLLM pairs every query of a chunk with the chunk's whole context; we count causally, the one at i with i + 1 tokens.
* We count the router of a mixture of experts, vLLM does not.
* With tensor parallelism vLLM counts what is repeated on every GPU (MLA's down-projections, KV heads below one a GPU);
  we count each product once over all GPUs.
"""

import json
from functools import cache
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.v1.metrics.perf import ExecutionContext, ModelMetrics

from experiments.common._scratch import model_folder
from kvhorizon.models.performance.flops import attention_flops, decode_flops, head_flops, prefill_flops
from kvhorizon.models.performance.shape import ModelShape, from_config

BASE = {"vocab_size": 32768, "max_position_embeddings": 65536, "torch_dtype": "bfloat16", "hidden_size": 1024}
LAYERS = {"num_hidden_layers": 8, "num_attention_heads": 16, "intermediate_size": 2816}
LLAMA = {**BASE, **LAYERS, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CONFIGS: dict[str, dict[str, Any]] = {
    "mha": {**LLAMA, "num_key_value_heads": 16},
    "gqa": {**LLAMA, "num_key_value_heads": 4},
    "mqa, heads wider than hidden / heads": {**LLAMA, "num_key_value_heads": 1, "head_dim": 128},
    "tied": {**LLAMA, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "window in all layers": {
        **BASE, **LAYERS, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_key_value_heads": 4,
        "sliding_window": 2048, "head_dim": 64,
    },
    "window in half of the layers": {
        **BASE, **LAYERS, "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "num_key_value_heads": 4,
        "head_dim": 64, "sliding_window": 128, "num_local_experts": 16, "num_experts_per_tok": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 4,
    },
    "mixture": {
        **BASE, **LAYERS, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_key_value_heads": 4,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    },
    "mixture of small experts": {
        **BASE, **LAYERS, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "num_key_value_heads": 4, "head_dim": 128, "num_experts": 32, "num_experts_per_tok": 4,
        "moe_intermediate_size": 384, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
    "mla, mixture, shared expert, dense layers first": {
        **BASE, **LAYERS, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "num_key_value_heads": 16, "kv_lora_rank": 128, "q_lora_rank": 384, "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 32, "num_experts_per_tok": 4,
        "moe_intermediate_size": 384, "n_shared_experts": 1, "first_k_dense_replace": 2, "moe_layer_freq": 1,
        "n_group": 4, "topk_group": 2,
    },
    "mla without query compression": {
        **BASE, **LAYERS, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "num_key_value_heads": 16, "kv_lora_rank": 128, "q_lora_rank": None, "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32, "v_head_dim": 48, "n_routed_experts": 16, "num_experts_per_tok": 4,
        "moe_intermediate_size": 384, "n_shared_experts": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "n_group": 1, "topk_group": 1,
    },
}  # fmt: skip
EXACT = 1e-12  # sums of whole numbers, in another order
CHUNKS = [(0, 1), (0, 100), (0, 3000), (1000, 1), (1000, 2000), (5000, 512)]


@cache
def theirs(name: str) -> tuple[ModelMetrics, Any]:
    config = VllmConfig(
        model_config=ModelConfig(
            model=model_folder(json.dumps(CONFIGS[name])),
            dtype="bfloat16",
            skip_tokenizer_init=True,
            max_model_len=65536,
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=8, max_num_batched_tokens=65536, max_model_len=65536, is_encoder_decoder=False
        ),
        cache_config=CacheConfig(block_size=32),
        parallel_config=ParallelConfig(),
        device_config=DeviceConfig("cpu"),
    )
    return ModelMetrics(config), config


def metrics(name: str, tp: int = 1) -> ModelMetrics:
    """As if the model were split over `tp` GPUs, which this machine lacks."""
    _, config = theirs(name)
    before = config.parallel_config.tensor_parallel_size
    config.parallel_config.tensor_parallel_size = tp
    try:
        return ModelMetrics(config)
    finally:
        config.parallel_config.tensor_parallel_size = before


@cache
def shape_of(name: str) -> ModelShape:
    """As the plugin reads it."""
    _, config = theirs(name)
    return from_config(config.model_config.hf_text_config.to_dict(), name)


def router_flops(shape: ModelShape) -> float:
    """Per token."""
    return 2.0 * shape.moe_layers * shape.hidden * shape.experts


def paired_flops(shape: ModelShape, start: int, tokens: int) -> float:
    """Attention as vLLM counts it: every query with the chunk's whole context, within the window."""
    context, window = start + tokens, shape.sliding_window or 0
    pairs = tokens * (shape.full_attention_layers * context + shape.windowed_layers * min(context, window))
    return 2.0 * shape.heads * (shape.head_dim + shape.value_head_dim) * pairs


@pytest.mark.parametrize("name", CONFIGS)
def test_decodes_agree(name: str) -> None:
    shape, (found, _) = shape_of(name), theirs(name)
    assert len(found.metrics) == 3  # attention, feed-forward, LM head
    for context in (1, 100, 2048, 5000, 60_000):
        flops = found.get_num_flops(ExecutionContext.from_single_request(1, context, False), per_gpu=False)
        assert decode_flops(shape, context) - router_flops(shape) == pytest.approx(flops, rel=EXACT)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("start", "tokens"), CHUNKS)
def test_prefills_agree(name: str, start: int, tokens: int) -> None:
    """vLLM charges the LM head to every chunk, we to the last only: with `sampled` both do."""
    shape, (found, _) = shape_of(name), theirs(name)
    flops = found.get_num_flops(ExecutionContext.from_single_request(tokens, start + tokens, True), per_gpu=False)
    ours = prefill_flops(shape, start, tokens, sampled=1) - router_flops(shape) * tokens
    causal = attention_flops(shape, start, tokens)
    paired = paired_flops(shape, start, tokens)
    assert ours - causal + paired == pytest.approx(flops, rel=EXACT)
    assert 0.49 * paired < causal <= paired


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_shares_of_tensor_parallel_gpus_agree(name: str, tp: int) -> None:
    shape, context = shape_of(name), 3000
    per_gpu = metrics(name, tp).get_num_flops(ExecutionContext.from_single_request(1, context, False), per_gpu=True)
    repeated = 0.0  # per token and layer, on each GPU beyond the first
    if shape.kv_lora_rank:
        repeated = shape.hidden * (shape.kv_lora_rank + shape.rope_dim + shape.q_lora_rank) * (tp - 1)
    elif tp > shape.kv_heads:
        repeated = 2 * shape.hidden * shape.head_dim * (tp - shape.kv_heads)
    ours = decode_flops(shape, context) - router_flops(shape) + 2.0 * shape.layers * repeated
    assert ours / tp == pytest.approx(per_gpu, rel=EXACT)


def test_a_wrong_shape_would_be_seen() -> None:
    """Each field that counts, one by one."""
    shape, (found, _) = (
        shape_of("mla, mixture, shared expert, dense layers first"),
        theirs("mla, mixture, shared expert, dense layers first"),
    )
    flops = found.get_num_flops(ExecutionContext.from_single_request(1, 1000, False), per_gpu=False)
    fields = ("layers", "hidden", "heads", "head_dim", "intermediate", "vocab", "top_k", "moe_intermediate")
    fields += ("shared_experts", "dense_layers", "kv_lora_rank", "q_lora_rank", "rope_dim", "value_dim")
    for field in fields:
        wrong = ModelShape(**{**{f: getattr(shape, f) for f in ModelShape.__slots__}, field: getattr(shape, field) + 1})
        assert decode_flops(wrong, 1000) - router_flops(wrong) != pytest.approx(flops, rel=1e-6), field
    assert head_flops(shape) > 0.0
