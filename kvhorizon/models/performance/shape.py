"""The shape of a decoder-only transformer: what its configuration says, and the parameters and bytes that follow.

Only matrices count; norms and biases are below 0.1 % of all parameters. Per layer, with h = hidden:

    attention   h·(heads + 2·kv_heads)·head_dim + heads·value_dim·h                      (MHA, GQA)
                h·q_rank + q_rank·heads·head_dim + h·(kv_rank + rope)
                + kv_rank·heads·(head_dim − rope + value_dim) + heads·value_dim·h        (MLA)
    feed        3·h·intermediate, or experts: 3·h·moe_intermediate each, and a router of h·experts

Sources: Touvron et al. 2023 (Llama), Ainslie et al. 2023 (GQA), DeepSeek-AI 2024 (MLA, DeepSeek-V2), Jiang et al. 2024
(Mixtral); the counts agree with the published sizes of the checkpoints (tests).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from kvhorizon.errors import InputError
from kvhorizon.models.performance.hf_config import read_config, shape_fields

# Shorter windows fill within a few hundred steps and are counted as full ever after; longer ones as growing throughout.
SHORT_WINDOW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts and widths; 0 where a part is absent."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int  # of queries and keys
    intermediate: int  # of the dense feed-forward layers
    vocab: int
    max_position: int
    tied_embeddings: bool = False
    experts: int = 0
    top_k: int = 0
    moe_intermediate: int = 0
    shared_experts: int = 0
    dense_layers: int = 0  # feed-forward layers without experts in a model with experts
    kv_lora_rank: int = 0  # > 0: multi-head latent attention
    q_lora_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0  # of the values, where they are not as wide as the keys
    sliding_window: int | None = None
    windowed_layers: int = 0
    weight_bytes_per_param: float = 2.0
    expert_bytes_per_param: float = 2.0

    @property
    def full_attention_layers(self) -> int:
        return self.layers - self.windowed_layers

    @property
    def growing_layers(self) -> int:
        """Layers whose KV grows with the context; those with a short window do not."""
        short = self.sliding_window is not None and self.sliding_window <= SHORT_WINDOW_TOKENS
        return self.full_attention_layers if short else self.layers

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def value_head_dim(self) -> int:
        return self.value_dim or self.head_dim

    @property
    def embedding_params(self) -> int:
        """The input embedding; the LM head has as many and is the same matrix where they are tied."""
        return self.vocab * self.hidden

    @property
    def attention_params_per_layer(self) -> int:
        output = self.heads * self.value_head_dim * self.hidden
        if not self.kv_lora_rank:
            return self.hidden * (self.heads + 2 * self.kv_heads) * self.head_dim + output
        queries = self.heads * self.head_dim
        q = (self.hidden + queries) * self.q_lora_rank if self.q_lora_rank else self.hidden * queries
        up = self.heads * (self.head_dim - self.rope_dim + self.value_head_dim)
        return q + self.hidden * (self.kv_lora_rank + self.rope_dim) + self.kv_lora_rank * up + output

    @property
    def expert_params(self) -> int:
        """All routed experts of all layers."""
        return self.moe_layers * self.experts * 3 * self.hidden * self.moe_intermediate

    @property
    def dense_layer_params(self) -> int:
        """What every token passes: attention, dense feed-forward, routers, shared experts; no embedding, no LM head."""
        feed = (self.layers - self.moe_layers) * 3 * self.hidden * self.intermediate
        shared = self.moe_layers * self.shared_experts * 3 * self.hidden * self.moe_intermediate
        routers = self.moe_layers * self.hidden * self.experts
        return self.layers * self.attention_params_per_layer + feed + shared + routers

    @property
    def params(self) -> int:
        embeddings = self.embedding_params * (1 if self.tied_embeddings else 2)
        return self.dense_layer_params + self.expert_params + embeddings

    @property
    def linear_params_per_token(self) -> int:
        """Parameters multiplied for every token: no embedding (a look-up), no LM head (only for sampled tokens)."""
        routed = self.expert_params * self.top_k // self.experts if self.experts else 0
        return self.dense_layer_params + routed

    @property
    def active_params(self) -> int:
        """Parameters multiplied for a token that is sampled: with the LM head, without the embedding."""
        return self.linear_params_per_token + self.embedding_params

    @property
    def weight_bytes(self) -> float:
        """All weights in memory, over all GPUs [bytes]."""
        dense = self.params - self.expert_params
        return dense * self.weight_bytes_per_param + self.expert_weight_bytes

    @property
    def streamed_weight_bytes(self) -> float:
        """Read by every step: all but the routed experts and the rows of the embedding, over all GPUs [bytes]."""
        return (self.dense_layer_params + self.embedding_params) * self.weight_bytes_per_param

    @property
    def expert_weight_bytes(self) -> float:
        return self.expert_params * self.expert_bytes_per_param

    def kv_layer_bytes(self, dtype_bytes: float = 2.0) -> float:
        """KV of one token in one layer, over all GPUs of one replica [bytes]; MLA keeps one latent vector."""
        if self.kv_lora_rank:
            return (self.kv_lora_rank + self.rope_dim) * dtype_bytes
        return 2 * self.kv_heads * self.head_dim * dtype_bytes

    def kv_bytes_per_token(self, dtype_bytes: float = 2.0, context_tokens: int = 0) -> float:
        """Bytes that one more token adds at `context_tokens`: windowed layers add none once their window is full."""
        inside = self.sliding_window is None or context_tokens < self.sliding_window
        return (self.layers if inside else self.full_attention_layers) * self.kv_layer_bytes(dtype_bytes)

    def kv_bytes(self, context_tokens: int, dtype_bytes: float = 2.0) -> float:
        """KV of a context [bytes]."""
        window = context_tokens if self.sliding_window is None else min(context_tokens, self.sliding_window)
        tokens = self.full_attention_layers * context_tokens + self.windowed_layers * window
        return tokens * self.kv_layer_bytes(dtype_bytes)

    def window_kv_bytes(self, dtype_bytes: float = 2.0) -> float:
        """KV of the full short windows of one sequence, those not among the growing layers [bytes]."""
        return (self.layers - self.growing_layers) * (self.sliding_window or 0) * self.kv_layer_bytes(dtype_bytes)

    def kv_share(self, tp: int) -> float:
        """Share of the KV on each of `tp` GPUs: KV heads are split, then repeated; MLA's latent is repeated."""
        return 1.0 if self.kv_lora_rank else max(1.0, self.kv_heads / tp) / self.kv_heads


def builtin_names() -> tuple[str, ...]:
    """Models that need no configuration file."""
    return tuple(shape.name for shape in _builtins())


def builtin(name: str) -> ModelShape:
    """A model by its name, in any case, with or without its owner; raises InputError listing the known ones."""
    wanted = name.lower().rsplit("/", 1)[-1]
    for shape in _builtins():
        if shape.name == wanted:
            return shape
    raise InputError("model", name, f"must be a config.json or one of {', '.join(builtin_names())}")


@lru_cache(maxsize=1)
def _builtins() -> tuple[ModelShape, ...]:
    """Rows of `data/shapes.csv`, from the checkpoints' published config.json."""
    numbers = [f.name for f in fields(ModelShape) if f.type == "int"]
    with (files("kvhorizon.models.performance") / "data" / "shapes.csv").open(encoding="utf-8") as lines:
        return tuple(
            ModelShape(
                name=row["name"],
                tied_embeddings=row["tied_embeddings"] == "1",
                sliding_window=int(row["sliding_window"]) or None,
                weight_bytes_per_param=float(row["weight_bytes_per_param"]),
                expert_bytes_per_param=float(row["expert_bytes_per_param"]),
                **{key: int(row[key]) for key in numbers},
            )
            for row in csv.DictReader(lines)
        )


def from_config(source: Mapping[str, Any] | str | Path, name: str = "") -> ModelShape:
    """A model from its Hugging Face config.json, a mapping or a path; see `models.performance.hf_config` for the keys.

    Raises InputError for a file that cannot be read and for a key that is missing or no number.
    """
    config = read_config(Path(source)) if isinstance(source, str | Path) else source
    known_as = name or str(config.get("_name_or_path") or config.get("model_type") or "model")
    return ModelShape(name=known_as.lower().rstrip("/").rsplit("/", 1)[-1], **shape_fields(config))
