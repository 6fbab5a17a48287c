"""Hugging Face config.json to the fields of `models.performance.shape.ModelShape`.

Knows the keys of the llama, qwen2, qwen3, qwen3_moe, mistral, mixtral, gpt_oss and deepseek_v3 families; a family that
uses the same keys works as well. The text part of a multimodal configuration is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvhorizon.errors import InputError

Config = Mapping[str, Any]
MOST_BITS = 64  # of a weight
LARGEST = 10**9  # of any size


def read_config(path: Path) -> Config:
    """The JSON object in a file; raises InputError where there is none."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("config", str(path), f"must be a readable config.json ({error})") from None
    if not isinstance(config, dict):
        raise InputError("config", str(path), "must hold a JSON object")
    return config


def shape_fields(config: Config) -> dict[str, Any]:
    """All fields of the shape but its name; raises InputError for a key that is missing or no integer."""
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        raise InputError("text_config", text, "must be an object in config.json")
    return {**_widths(text), **_latent(text), **_experts(text), **_window(text), **_weights(config)}


def _widths(text: Config) -> dict[str, Any]:
    heads, hidden = _int(text, "num_attention_heads"), _int(text, "hidden_size")
    if heads < 1:
        raise InputError("num_attention_heads", heads, "must be >= 1 in config.json")
    return {
        "layers": _int(text, "num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": _int(text, "num_key_value_heads", default=heads),
        "head_dim": _int(text, "head_dim", default=hidden // heads),
        "intermediate": _int(text, "intermediate_size"),
        "vocab": _int(text, "vocab_size"),
        "max_position": _int(text, "max_position_embeddings"),
    }


def _latent(text: Config) -> dict[str, Any]:
    """Multi-head latent attention, where there is any; `head_dim` is then that of the uncompressed queries."""
    rank = _int(text, "kv_lora_rank", default=0)
    if not rank:
        return {}
    rope = _int(text, "qk_rope_head_dim")
    return {
        "kv_lora_rank": rank,
        "q_lora_rank": _int(text, "q_lora_rank", default=0),
        "rope_dim": rope,
        "head_dim": _int(text, "qk_nope_head_dim") + rope,
        "value_dim": _int(text, "v_head_dim"),
    }


def _experts(text: Config) -> dict[str, Any]:
    experts = _int(text, "num_experts", "num_local_experts", "n_routed_experts", default=0)
    if not experts:
        return {}
    return {
        "experts": experts,
        "top_k": _int(text, "num_experts_per_tok", "experts_per_token"),
        "moe_intermediate": _int(text, "moe_intermediate_size", "intermediate_size"),
        "shared_experts": _int(text, "n_shared_experts", default=0),
        "dense_layers": _int(text, "first_k_dense_replace", default=len(text.get("mlp_only_layers") or ())),
    }


def _window(text: Config) -> dict[str, Any]:
    """By `layer_types` where given; else every layer has the window, as in Mistral 7B v0.1."""
    window = _int(text, "sliding_window", default=0)
    if not window or not text.get("use_sliding_window", True):
        return {}
    types = text.get("layer_types")
    if types and not (isinstance(types, list) and all(isinstance(kind, str) for kind in types)):
        raise InputError("layer_types", types, "must be a list of texts in config.json")
    windowed = sum("sliding" in kind for kind in types) if types else _int(text, "num_hidden_layers")
    return {"sliding_window": window, "windowed_layers": windowed}


def _weights(config: Config) -> dict[str, Any]:
    """fp8, mxfp4 (experts only; a scale byte per 32 weights) and integer `bits`; anything else counts as 16 bit."""
    tied = bool(config.get("tie_word_embeddings", str(config.get("model_type")).startswith("gemma")))
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, Mapping):
        raise InputError("quantization_config", quantization, "must be an object in config.json")
    method, bits = quantization.get("quant_method"), quantization.get("bits", 16)
    if method != "fp8" and (isinstance(bits, bool) or not isinstance(bits, int | float) or not 0 < bits <= MOST_BITS):
        raise InputError("quantization_config.bits", bits, f"must be a number > 0 and <= {MOST_BITS} in config.json")
    dense = 1.0 if method == "fp8" else bits / 8
    expert = (4 + 8 / 32) / 8 if method == "mxfp4" else dense
    return {"tied_embeddings": tied, "weight_bytes_per_param": dense, "expert_bytes_per_param": expert}


def _int(config: Config, *keys: str, default: int | None = None) -> int:
    """The first of `keys` that is there and not null."""
    value = next((config[key] for key in keys if config.get(key) is not None), default)
    if not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise InputError(" or ".join(keys), value, "must be an integer >= 0 in config.json")
    return value
