"""Two models for engines on vLLM's defaults, with what LoRA and structured output need beside weights.

The tiny one's prefill is nearly free, so that it hides what overwritten KV costs; with the heavier one a prefill of
some hundred tokens costs more than a step, as on a GPU. Both have a tokenizer of bytes, without which vLLM compiles no
grammar, and two small random adapters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from experiments.live.serving._live_model import CONFIG, END, VOCABULARY, write_model, write_shape

HEAVY: dict[str, Any] = CONFIG | {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 8,
    "torch_dtype": "bfloat16",
}
ADAPTERS = ("adapter-0", "adapter-1")  # as requests name them
RANK = 8
_SPECIAL = ("<unk>", "<s>", "</s>")  # the last one is END


class Model(NamedTuple):
    """A configuration, and options of a server that serves it."""

    config: dict[str, Any]
    real_weights: bool
    options: tuple[str, ...]

    def write(self) -> Path:
        """Its folder, with a tokenizer and adapters."""
        folder = write_model() if self.real_weights else write_shape(self.config)
        _write_tokenizer(folder)
        for seed, name in enumerate(ADAPTERS):
            _write_adapter(folder / name, self.config, seed)
        return folder


MODELS = {
    "tiny": Model(CONFIG, True, ("--enforce-eager",)),
    "heavy": Model(HEAVY, False, ("--enforce-eager", "--load-format", "dummy")),
}


def lora_options(folder: Path) -> tuple[str, ...]:
    """Options of a server whose requests may name one of ADAPTERS as their model."""
    modules = [f"{name}={folder / name}" for name in ADAPTERS]
    limits = ("--max-loras", str(len(ADAPTERS)), "--max-lora-rank", str(RANK))
    return ("--enable-lora", *limits, "--lora-modules", *modules)


def _write_tokenizer(folder: Path) -> None:
    """Every byte is a token; the rest of the vocabulary are pairs of them, which no text is split into."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = (first + second for first in letters for second in letters)
    words = [*_SPECIAL, *letters, *(next(pairs) for _ in range(VOCABULARY - len(_SPECIAL) - len(letters)))]
    assert words[END] == _SPECIAL[-1]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": _SPECIAL[1], "eos_token": _SPECIAL[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


def _write_adapter(folder: Path, config: dict[str, Any], seed: int) -> None:
    """A LoRA adapter of the query and value projections, small enough to leave the model what it is."""
    folder.mkdir()
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    random = torch.Generator().manual_seed(seed)
    hidden = config["hidden_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for part, width in (("q_proj", hidden), ("v_proj", narrow)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            tensors[f"{at}.lora_A.weight"] = torch.randn((RANK, hidden), generator=random) * 0.1
            tensors[f"{at}.lora_B.weight"] = torch.randn((width, RANK), generator=random) * 0.1
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
