"""The engine that a what-if is about: a model on a GPU, or the one that a recording describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from kvhorizon.errors import InputError
from kvhorizon.models.performance.gpu import Gpu, preset, tpot_target_s
from kvhorizon.models.performance.kv_offload import UNKNOWN_KV_BYTES, kv_bytes_on_one
from kvhorizon.models.performance.kv_pool import pool_blocks
from kvhorizon.models.performance.shape import ModelShape, builtin, from_config
from kvhorizon.models.performance.step_time import step_cost
from kvhorizon.recording.read import Recording
from kvhorizon.state import EngineFacts, StepCost

MODEL, GPU = "llama-3.1-8b", "a100-40gb"  # where no request says
AS_RECORDED = "as recorded"  # in place of a GPU's name
BLOCK_SIZE = 16
RECORDED_TPOT_TARGET_S = 0.05  # of an engine whose GPU is not among the presets
_SIZES = ("total_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len")


class EngineSpec(NamedTuple):
    """Its facts, what it is called, and its goodput target of time per output token."""

    facts: EngineFacts
    model: str
    gpu: str
    tpot_target_s: float
    as_recorded: bool
    kv_bytes: float  # of a token, on one GPU


def engine_spec(
    model: str | None, gpu: str | None, tp: int, kv_blocks: int | None, recording: Recording | None = None
) -> EngineSpec:
    """The engine asked for, else the one recorded, else the default. Raises InputError."""
    if recording is not None and recording.facts and model is None and gpu is None and tp == 1:
        facts = recorded_facts(recording.facts)
        if kv_blocks is not None:
            facts = dataclasses.replace(facts, total_blocks=_positive("kv-blocks", kv_blocks))
        name = str(recording.facts.get("model", "unknown"))
        return EngineSpec(facts, name, AS_RECORDED, RECORDED_TPOT_TARGET_S, True, _recorded_kv(recording.facts))
    model, gpu = model or MODEL, gpu or GPU
    shape, device = load_model(model), preset(gpu)
    facts, target_s = engine_facts(shape, device, tp, kv_blocks), tpot_target_s(device, shape)
    return EngineSpec(facts, model, gpu, target_s, False, kv_bytes_on_one(shape, tp))


def load_model(name: str) -> ModelShape:
    """A built-in model, or a Hugging Face `config.json` by path."""
    return from_config(Path(name)) if name.endswith(".json") else builtin(name)


def engine_facts(shape: ModelShape, gpu: Gpu, tp: int = 1, kv_blocks: int | None = None) -> EngineFacts:
    """A model on so many GPUs. Raises InputError where the weights do not fit."""
    if kv_blocks is not None:
        _positive("kv-blocks", kv_blocks)
    return EngineFacts(
        total_blocks=kv_blocks or pool_blocks(shape, gpu, tp, block_size=BLOCK_SIZE),
        block_size=BLOCK_SIZE,
        max_num_seqs=gpu.max_num_seqs,
        max_num_batched_tokens=gpu.max_num_batched_tokens,
        max_model_len=shape.max_position,
        cost=step_cost(shape, gpu, tp),
    )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InputError(name, value, "must be >= 1")
    return value


def recorded_facts(facts: dict[str, Any]) -> EngineFacts:
    """The engine that a recording describes. Raises InputError where it makes no sense."""
    for name in _SIZES:
        value = facts.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**40:
            raise InputError(f"recording: engine {name}", value, "must be a whole number >= 1")
    cost = facts.get("cost")
    if not isinstance(cost, dict) or not set(cost) <= set(StepCost._fields):
        raise InputError("recording: engine cost", None, f"must be numbers of {', '.join(StepCost._fields)}")
    for name, value in cost.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1e30:
            raise InputError(f"recording: engine cost {name}", value, "must be a number >= 0")
    defaults = {"fixed_s": 0.0, "weights_s": 0.0}
    return EngineFacts(**{name: facts[name] for name in _SIZES}, cost=StepCost(**{**defaults, **cost}))


def _recorded_kv(facts: dict[str, Any]) -> float:
    value = facts.get("kv_bytes_per_token", UNKNOWN_KV_BYTES)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1e12:
        raise InputError("recording: engine kv_bytes_per_token", value, "must be a number > 0")
    return float(value)
