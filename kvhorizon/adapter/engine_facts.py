"""What the plugin knows of its engine from the start: model shape, speed, sizes. It reads vLLM's
configuration and imports none of it.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from kvhorizon.adapter.engine.view import Engine
from kvhorizon.errors import InputError
from kvhorizon.models.performance.gpu import Gpu, preset, recognised
from kvhorizon.models.performance.shape import ModelShape, from_config
from kvhorizon.models.performance.step_time import step_cost
from kvhorizon.state import EngineFacts, StepCost

logger = logging.getLogger(__name__)

DEFAULT_GPU = "h100-80gb"
UNKNOWN_COST = StepCost(fixed_s=0.005, weights_s=0.008, linear_s_per_token=4e-5, attention_s_per_pair=1e-9)


def model_shape(config: Any) -> ModelShape | None:
    """Of the served model, from its Hugging Face configuration; None where it is of no known kind."""
    try:
        model = config.model_config
        return from_config(model.hf_text_config.to_dict(), str(model.model))
    except (InputError, AttributeError, TypeError, ValueError) as error:
        logger.warning("kvhorizon does not know this model's shape, FLOPs stay 0: %s", error)
        return None


def gpu_of(device_name: str | None) -> Gpu | None:
    """The preset of exactly this device, the default one where there is none; of an unknown GPU None, and one line."""
    if device_name is None:
        return preset(DEFAULT_GPU)
    gpu = recognised(device_name)
    if gpu is None:
        logger.warning(
            "kvhorizon does not know the GPU %s: steps are priced as on %s until enough are measured; "
            "KVHORIZON_GPU names a preset",
            device_name,
            DEFAULT_GPU,
        )
    return gpu


def price(shape: ModelShape | None, gpu: Gpu | None, tp: int) -> StepCost:
    """Step time of the model on the GPU, or on the default one; a typical 8B model's where its shape is unknown or does
    not fit."""
    if shape is None:
        return UNKNOWN_COST
    try:
        return step_cost(shape, gpu or preset(DEFAULT_GPU), tp)
    except InputError as error:
        logger.warning("kvhorizon cannot price this model's steps, and takes typical ones: %s", error)
        return UNKNOWN_COST


def data_parallel_rank(config: Any) -> int:
    """Which of the engines that serve one model together this is, from 0."""
    return int(getattr(config.parallel_config, "data_parallel_rank", 0) or 0)


def engine_facts(engine: Engine, cost: StepCost, config: Any) -> EngineFacts:
    """The facts that open a session; the epoch is new with each engine."""
    return EngineFacts(
        total_blocks=engine.total_blocks,
        block_size=engine.block_size,
        max_num_seqs=engine.max_active,
        max_num_batched_tokens=engine.token_budget,
        max_model_len=engine.max_model_len,
        cost=cost,
        engine_id=f"vllm-{os.getpid()}-{data_parallel_rank(config)}",
        engine_epoch=time.time_ns() // 1000,
        window_tokens=engine.window_tokens,
    )
