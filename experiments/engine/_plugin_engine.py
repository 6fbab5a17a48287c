"""vLLM's own scheduler with or without a plugin, and nothing else of an engine: no model runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.structured_output import StructuredOutputManager

from experiments.common._scratch import model_folder
from kvhorizon.adapter import make_scheduler

BLOCK = 16


@dataclass(frozen=True)
class Setup:
    """Of one engine."""

    blocks: int = 160
    seats: int = 24
    batched: int = 512
    max_len: int = 8192
    asynchronous: bool = False
    caching: bool = False
    policy: str = "fcfs"
    watermark: float = 0.0
    data_parallel: int = 1
    block_size: int = BLOCK
    adapters: int = 0  # LoRA adapters in one batch at most; 0: none are served
    images: int = 0  # encoder embeddings a step, and as many in the cache; 0: text only
    drafts: int = 0  # a step, of a draft model, which wants room for as many tokens beyond
    plugin: bool = True
    step_s: float | None = 0.02  # on the plugin's clock; None: real time
    settings: dict[str, Any] = field(default_factory=lambda: {"local_only": True})


def make(setup: Setup) -> Scheduler:
    """vLLM's scheduler, ours if `setup.plugin`: always in control, unless the settings want the guardrail."""
    model = ModelConfig(
        model=model_folder(), dtype="float16", seed=0, skip_tokenizer_init=True, max_model_len=setup.max_len
    )
    parallel = ParallelConfig(data_parallel_size=setup.data_parallel, data_parallel_size_local=setup.data_parallel)
    config = VllmConfig(
        model_config=model,
        scheduler_config=SchedulerConfig(
            max_num_seqs=setup.seats,
            max_num_batched_tokens=setup.batched,
            max_model_len=setup.max_len,
            enable_chunked_prefill=True,
            async_scheduling=setup.asynchronous,
            is_encoder_decoder=False,
            policy=setup.policy,
            watermark=setup.watermark,
        ),
        cache_config=CacheConfig(block_size=setup.block_size, enable_prefix_caching=setup.caching),
        parallel_config=parallel,
        speculative_config=_speculation(setup, model, parallel),
        device_config=DeviceConfig("cpu"),
        lora_config=LoRAConfig(max_lora_rank=8, max_loras=setup.adapters) if setup.adapters else None,
        additional_config={"kvhorizon": {"guardrail": False, **setup.settings}} if setup.plugin else {},
    )
    config.scheduler_config.async_scheduling = setup.asynchronous  # the CPU platform turns it off
    config.cache_config.block_size = setup.block_size
    config.cache_config.num_gpu_blocks = setup.blocks
    register_all_kvcache_specs(config)
    spec = FullAttentionSpec(block_size=setup.block_size, num_kv_heads=2, head_size=16, dtype=torch.float16)
    own = AsyncScheduler if setup.asynchronous else Scheduler
    scheduler = (make_scheduler if setup.plugin else own)(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=setup.blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        ),
        block_size=setup.block_size,
        hash_block_size=setup.block_size,
        log_stats=True,
        structured_output_manager=StructuredOutputManager(config),
    )
    if setup.images:  # the model's own configuration is of text
        scheduler.max_num_encoder_input_tokens = setup.images
        scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=setup.images)
    return scheduler


def _speculation(setup: Setup, model: Any, parallel: Any) -> Any:
    """The model drafts for itself."""
    if not setup.drafts:
        return None
    return SpeculativeConfig(
        method="draft_model",
        model=model_folder(),
        num_speculative_tokens=setup.drafts,
        target_model_config=model,
        target_parallel_config=parallel,
    )
