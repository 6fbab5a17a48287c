"""How many KV blocks fit beside the weights.

    blocks = floor((utilization · memory − weights / tp − overhead − windows) / (block_size · KV bytes per token))

    overhead = 1.2 GB (CUDA context, communicators, CUDA graphs)
               + batched tokens · 2 bytes · (3 · feed-forward width / tp + 4 · hidden)    activations of a layer
               + max_num_seqs · vocab · 10 bytes                                          logits: bf16, float32 twice
    windows  = max_num_seqs · KV of a full short window, where layers have one

in bytes per GPU. Source: the accounting of vLLM's memory profiling (`vllm/v1/worker/gpu_worker.py`); the constants
reproduce pools that its users report within a few per cent (tests), not exactly.
"""

from __future__ import annotations

import math

from kvhorizon.errors import InputError
from kvhorizon.models.performance.gpu import Gpu
from kvhorizon.models.performance.shape import ModelShape

RUNTIME_BYTES = 1.2e9
LOGIT_BYTES = 10.0


def overhead_bytes(shape: ModelShape, tp: int, max_num_seqs: int, max_num_batched_tokens: int) -> float:
    """Memory per GPU that is neither weights nor KV [bytes]."""
    width = shape.intermediate if not shape.experts else shape.moe_intermediate * (shape.top_k + shape.shared_experts)
    activations = max_num_batched_tokens * 2.0 * (3.0 * width / tp + 4.0 * shape.hidden)
    return RUNTIME_BYTES + activations + max_num_seqs * shape.vocab * LOGIT_BYTES


def pool_blocks(
    shape: ModelShape,
    gpu: Gpu,
    tp: int = 1,
    *,
    gpu_memory_utilization: float = 0.9,
    block_size: int = 16,
    kv_dtype_bytes: float = 2.0,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
) -> int:
    """KV blocks of `block_size` tokens in the pool of a replica on `tp` GPUs; limits default to the GPU's.

    Raises InputError where an argument is out of range, or no block is left beside the weights.
    """
    if tp < 1 or shape.heads % tp:
        raise InputError("tp", tp, f"must be >= 1 and divide the {shape.heads} attention heads")
    if not 0.0 < gpu_memory_utilization <= 1.0:
        raise InputError("gpu_memory_utilization", gpu_memory_utilization, "must be in (0, 1]")
    if block_size < 1:
        raise InputError("block_size", block_size, "must be >= 1")
    seqs = gpu.max_num_seqs if max_num_seqs is None else max_num_seqs
    batched = gpu.max_num_batched_tokens if max_num_batched_tokens is None else max_num_batched_tokens
    usable = gpu_memory_utilization * gpu.memory_bytes - shape.weight_bytes / tp
    left = usable - overhead_bytes(shape, tp, seqs, batched)
    left -= seqs * shape.window_kv_bytes(kv_dtype_bytes) * shape.kv_share(tp)
    block_bytes = block_size * shape.growing_layers * shape.kv_layer_bytes(kv_dtype_bytes) * shape.kv_share(tp)
    blocks = math.floor(left / block_bytes)
    if blocks < 1:
        need = f"{shape.weight_bytes / tp / 1e9:.1f} GB of weights"
        rule = f"leaves no KV block on {gpu.name} with tp={tp}: {need}, {usable / 1e9:.1f} GB left for all else"
        raise InputError("model", shape.name, rule)
    return blocks
