"""What a live experiment serves where it runs: a tiny model on a CPU, the shape of an 8B model on a GPU.

On a GPU vLLM draws the weights, so that tokens are near-ties all over and not compared; CUDA graphs hold the decodes,
as by default, and nothing is compiled. Four engines share the GPU, each with as much memory as its pool takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.live.serving._live_load import Kind
from experiments.live.serving._live_model import CONFIG, LLAMA_8B, write_model, write_shape
from experiments.live.serving._live_server import Served

_GIB = 1 << 30


class Site(NamedTuple):
    """One kind of machine."""

    suffix: str  # of a result's name
    config: dict[str, Any]  # of the model
    real_weights: bool
    served: Served
    kind: Kind  # of the requests
    requests: int  # in a round
    starts: int  # of all servers
    rounds: int  # with each start; judged on seeds from 0 on, what was tried while building used seeds from 100 on
    pools: tuple[int, ...]  # blocks; the first is judged by the plain names of the targets

    def write(self) -> Path:
        """The model's folder."""
        return write_model() if self.real_weights else write_shape(self.config)


CPU = Site("", CONFIG, True, Served(960, 256), Kind(), 600, 2, 4, (960, 240))
GPU = Site(
    "_gpu",
    LLAMA_8B,
    False,
    Served(
        blocks=4096,
        seats=256,
        block_size=16,
        batched=8192,
        max_len=4096,
        dtype="bfloat16",
        options=(
            "--load-format", "dummy",
            "--compilation-config", '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}',
            "--gpu-memory-utilization", "0.2",
            "--kv-cache-memory-bytes", str(9 * _GIB),
        ),
    ),
    Kind(prompt_tokens=(32, 512), output_median=200.0, output_tokens=(8, 2000), max_tokens=2500),
    1000,
    1,
    1,
    (4096,),
)  # fmt: skip


def site() -> Site:
    """Of this machine."""
    return GPU if torch.cuda.is_available() else CPU
