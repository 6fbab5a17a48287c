"""vLLM's source archive with its tests, fetched by pip into a folder that is thrown away, and a stub of the model hub.

The tests ask for models of the hub by name but need their configuration only: a folder in the hub's cache layout holds
configurations of the same widths, and a tokenizer of four words. Nothing of it is kept in this repository.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from typing import Any

from kvhorizon.errors import InputError

ARCHIVE = "KVHORIZON_VLLM_SDIST"
BUILD_TOOLS = ("setuptools>=77,<82", "setuptools_scm", "setuptools-rust", "wheel", "packaging", "jinja2")
REVISION = "0" * 40
_COMMON = {"vocab_size": 1000, "max_position_embeddings": 131072, "torch_dtype": "float16", "eos_token_id": 2}
MODELS: dict[str, dict[str, Any]] = {
    "facebook/opt-125m": {
        **_COMMON,
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 768,
        "vocab_size": 50272,
    },
    "meta-llama/Llama-3.2-1B-Instruct": {
        **_COMMON,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 16,
        "head_dim": 64,
    },
    "Qwen/Qwen3-0.6B": {
        **_COMMON,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_hidden_layers": 28,
        "head_dim": 128,
    },
}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "<s>": 1, "</s>": 2, "<pad>": 3}, "unk_token": "[UNK]"},
}
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "eos_token": "</s>"}


def tests_of(version: str, folder: Path) -> Path:
    """Unpack vLLM's `tests` into `folder`; returns the folder to run them from. Raises InputError without an archive.

    `KVHORIZON_VLLM_SDIST` may name an archive that is there already.
    """
    given = os.environ.get(ARCHIVE)
    archive = Path(given) if given else download(version, folder)
    if not archive.exists():
        raise InputError(ARCHIVE, str(archive), "must name vLLM's source archive (.tar.gz)")
    with tarfile.open(archive) as packed:
        root = packed.getnames()[0].split("/")[0]
        wanted = [one for one in packed if one.name.startswith((f"{root}/tests/v1/", f"{root}/tests/__init__.py"))]
        packed.extractall(folder, members=wanted, filter="data")
        if f"{root}/tests/utils.py" in packed.getnames():
            packed.extract(f"{root}/tests/utils.py", folder, filter="data")
    return folder / root


def package_of(version: str, folder: Path) -> Path:
    """Unpack vLLM itself from its source archive into `folder`; returns what to put on the path."""
    with tarfile.open(download(version, folder)) as packed:
        root = packed.getnames()[0].split("/")[0]
        wanted = [one for one in packed if one.name.startswith(f"{root}/vllm/")]
        packed.extractall(folder, members=wanted, filter="data")
    return folder / root


def stub_hub(folder: Path) -> Path:
    """A cache of the model hub with configurations only; returns what HF_HOME is to be."""
    for name, config in MODELS.items():
        base = folder / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = base / "snapshots" / REVISION
        snapshot.mkdir(parents=True)
        (base / "refs").mkdir()
        (base / "refs" / "main").write_text(REVISION, encoding="utf-8")
        for file, content in (
            ("config.json", config),
            ("tokenizer.json", TOKENIZER),
            ("tokenizer_config.json", TOKENIZER_CONFIG),
        ):
            (snapshot / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


def download(version: str, folder: Path) -> Path:
    """The archive, by pip, which wants to know its metadata: the tools for that go into an environment of their own.

    Raises InputError where it cannot be had.
    """
    tools = folder / "tools"
    venv.create(tools, with_pip=True)
    python = tools / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *BUILD_TOOLS], check=True)
    here = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    (here / "engine.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")  # torch
    override = {"VLLM_VERSION_OVERRIDE": version, "SETUPTOOLS_SCM_PRETEND_VERSION": version}
    done = subprocess.run(
        [python, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", "vllm",
         f"vllm=={version}", "-d", str(folder)],
        env={**os.environ, **override, "VLLM_TARGET_DEVICE": "empty"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = sorted(folder.glob("vllm-*.tar.gz"))
    if done.returncode or not found:
        print(done.stderr[-2000:], file=sys.stderr)
        raise InputError(ARCHIVE, "", f"must name vLLM {version}'s source archive, which pip could not fetch")
    return found[0]
