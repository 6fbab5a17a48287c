"""A tiny Llama with seeded weights, and the logits processor that ends each request at its true length.

The weights are real numbers in a safetensors file, large enough for tokens to depend on the whole context; the same
seed gives the same tokens on every engine. On a GPU it is the shape of Llama 3.1 8B, whose weights vLLM draws by itself
(see `_live_site`). Run length reaches the engine as `vllm_xargs.true_len`, which no forecast
reads: the processor forbids the end-of-sequence token before that length, and forces it there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from vllm.v1.sample.logits_processor import LogitsProcessor

from experiments.common._scratch import scratch

VOCABULARY = 1024
END = 2  # the end-of-sequence token
LENGTH = "true_len"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "eos_token_id": END,
    "torch_dtype": "float32",
}
LLAMA_8B = CONFIG | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
_SCALE = 0.08  # standard deviation of the weights


def write_shape(config: dict[str, Any]) -> Path:
    """A folder that vLLM can serve with weights that it draws by itself; no tokenizer: prompts are token ids."""
    folder = scratch("live")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_model(seed: int = 0) -> Path:
    """The tiny one with its weights."""
    folder = write_shape(CONFIG)
    random = torch.Generator().manual_seed(seed)
    tensors = {name: _tensor(name, shape, random) for name, shape in _shapes().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tensor(name: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(shape)
    return torch.randn(shape, generator=random) * (1.0 if "embed" in name else _SCALE)


def _shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama by their names in Hugging Face's files, (out, in)."""
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    narrow = hidden // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (VOCABULARY, hidden),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {at + f"self_attn.{part}_proj.weight": (hidden, hidden) for part in ("q", "o")}
        shapes |= {at + f"self_attn.{part}_proj.weight": (narrow, hidden) for part in ("k", "v")}
        shapes |= {at + f"mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes[at + "mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {at + f"{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    return shapes


class EndAtLength(LogitsProcessor):
    """vLLM loads it by name: `--logits-processors experiments.live.serving._live_model:EndAtLength`."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[int, list[int]]] = {}  # batch row -> (true length, its output so far)

    def is_argmax_invariant(self) -> bool:
        """It changes what greedy sampling picks."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the rows of vLLM's persistent batch: removed, added, moved, in this order."""
        if batch_update is None:
            return
        rows = self._rows
        for row in batch_update.removed:
            rows.pop(row, None)
        for row, parameters, _prompt, output in batch_update.added:
            length = (parameters.extra_args or {}).get(LENGTH)
            rows.pop(row, None)
            if length is not None:
                rows[row] = (int(length), output)
        for source, goal, direction in batch_update.moved:
            moved, displaced = rows.pop(source, None), rows.pop(goal, None)
            if moved is not None:
                rows[goal] = moved
            if displaced is not None and direction.name == "SWAP":
                rows[source] = displaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Only the end at the true length, anything but the end before it."""
        if not self._rows:
            return logits
        rows = list(self._rows)
        kept = logits[rows, END].clone()
        logits[rows, END] = float("-inf")
        due = [row for row, (length, output) in self._rows.items() if len(output) >= length - 1]
        if due:
            logits[due] = float("-inf")
            logits[due, END] = kept[[rows.index(row) for row in due]]
        return logits
