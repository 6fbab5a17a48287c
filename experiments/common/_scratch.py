"""Folders that go with the process, and the tiny model that engines without weights are given in one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

TINY = """{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 1024,
"max_position_embeddings": 1048576, "torch_dtype": "float16"}"""
SERVED = TINY.replace('"hidden_size": 64', '"hidden_size": 256')  # attention on the CPU wants wide heads


def scratch(name: str) -> Path:
    """A new temporary folder, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"kvhorizon-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def model_folder(config: str = TINY) -> str:
    """A local folder with the configuration of a model, as vLLM takes it; one for each configuration."""
    folder = scratch("model")
    (folder / "config.json").write_text(config, encoding="utf-8")
    return str(folder)
