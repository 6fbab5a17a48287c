"""GPUs: memory, bandwidth, peak FLOP/s, and what is usually asked of them.

Sources: NVIDIA data sheets (A100, H100 SXM, H200, L4, L40S, RTX PRO 6000 Blackwell Workstation Edition; dense bf16,
without sparsity, the last from its architecture's whitepaper); memory is what the driver
leaves to a process (`torch.cuda.get_device_properties().total_memory`), some 1-8 % below the decimal name; scheduler
defaults are vLLM 0.32's for an API server (`vllm/engine/arg_utils.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from kvhorizon.errors import InputError
from kvhorizon.models.shape import ModelShape

GIB = 2**30
LARGE_MODEL_PARAMS = 60_000_000_000
LARGE_MODEL_TPOT_S = 0.1


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of its kind."""

    name: str
    family: str  # row group of the calibration table; a GPU that was not measured borrows the nearest one's
    memory_bytes: float
    bandwidth_bytes_s: float
    peak_flops: float  # dense bf16 [FLOP/s]
    tpot_target_s: float  # goodput target of time per output token
    max_num_seqs: int
    max_num_batched_tokens: int


_PRESETS = (
    Gpu("a100-40gb", "a100", 39.4 * GIB, 1.555e12, 312e12, 0.075, 256, 2048),
    Gpu("a100-80gb", "a100", 79.2 * GIB, 2.039e12, 312e12, 0.075, 256, 2048),
    Gpu("h100-80gb", "h100", 79.1 * GIB, 3.35e12, 989e12, 0.05, 1024, 8192),
    Gpu("h200", "h200", 139.8 * GIB, 4.8e12, 989e12, 0.05, 1024, 8192),
    Gpu("l4-24gb", "l40s", 22.0 * GIB, 0.3e12, 121e12, 0.15, 256, 2048),
    Gpu("l40s-48gb", "l40s", 44.4 * GIB, 0.864e12, 362e12, 0.075, 256, 2048),
    Gpu("rtx-pro-6000", "l40s", 94.9 * GIB, 1.792e12, 503.8e12, 0.075, 1024, 8192),
)


def gpu_names() -> tuple[str, ...]:
    """The presets."""
    return tuple(gpu.name for gpu in _PRESETS)


def preset(name: str) -> Gpu:
    """A GPU by name, in any case; raises InputError listing the known ones."""
    for gpu in _PRESETS:
        if gpu.name == name.lower():
            return gpu
    raise InputError("gpu", name, f"must be one of {', '.join(gpu_names())}")


def tpot_target_s(gpu: Gpu, shape: ModelShape) -> float:
    """Goodput target of time per output token [s]: the GPU's, but no tighter than 0.1 s from 60e9 parameters on."""
    return max(gpu.tpot_target_s, LARGE_MODEL_TPOT_S) if shape.params >= LARGE_MODEL_PARAMS else gpu.tpot_target_s
