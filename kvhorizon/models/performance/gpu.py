"""GPUs: memory, bandwidth, peak FLOP/s, what is usually asked of them, and the names under which drivers know them.

Sources: NVIDIA data sheets (A100, A100 80GB PCIe, H100 SXM and PCIe, H200, L4, L40S, RTX PRO 6000 Blackwell
Workstation Edition; dense bf16, without sparsity, the last from its architecture's whitepaper); memory is what the
driver leaves to a process (`torch.cuda.get_device_properties().total_memory`), some 1-8 % below the decimal name;
scheduler defaults are vLLM 0.32's for an API server (`vllm/engine/arg_utils.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from kvhorizon.errors import InputError
from kvhorizon.models.performance.shape import ModelShape

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
    devices: tuple[str, ...] = ()  # what `torch.cuda.get_device_name()` says of it, without "NVIDIA"


_A100_40GB = ("A100-SXM4-40GB", "A100-PCIE-40GB")  # of one speed
_PRO_6000 = ("RTX PRO 6000 Blackwell Workstation Edition",)  # the Server and Max-Q editions are slower
_PRESETS = (
    Gpu("a100-40gb", "a100", 39.4 * GIB, 1.555e12, 312e12, 0.075, 256, 2048, _A100_40GB),
    Gpu("a100-80gb", "a100", 79.2 * GIB, 2.039e12, 312e12, 0.075, 256, 2048, ("A100-SXM4-80GB",)),
    Gpu("a100-80gb-pcie", "a100", 79.2 * GIB, 1.935e12, 312e12, 0.075, 256, 2048, ("A100 80GB PCIe",)),
    Gpu("h100-80gb", "h100", 79.1 * GIB, 3.35e12, 989e12, 0.05, 1024, 8192, ("H100 80GB HBM3",)),
    Gpu("h100-80gb-pcie", "h100", 79.1 * GIB, 2.0e12, 756e12, 0.05, 1024, 8192, ("H100 PCIe",)),
    Gpu("h200", "h200", 139.8 * GIB, 4.8e12, 989e12, 0.05, 1024, 8192, ("H200",)),
    Gpu("l4-24gb", "l40s", 22.0 * GIB, 0.3e12, 121e12, 0.15, 256, 2048, ("L4",)),
    Gpu("l40s-48gb", "l40s", 44.4 * GIB, 0.864e12, 362e12, 0.075, 256, 2048, ("L40S",)),
    Gpu("rtx-pro-6000", "l40s", 94.9 * GIB, 1.792e12, 503.8e12, 0.075, 1024, 8192, _PRO_6000),
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


def recognised(device_name: str) -> Gpu | None:
    """The GPU that a driver calls so, in any case; None where no preset has exactly this name.

    A part of a GPU (MIG), a GPU of another memory or bus and one with a similar name are other GPUs.
    """
    name = " ".join(device_name.split()).lower().removeprefix("nvidia ")
    return next((gpu for gpu in _PRESETS if name in (device.lower() for device in gpu.devices)), None)


def tpot_target_s(gpu: Gpu, shape: ModelShape) -> float:
    """Goodput target of time per output token [s]: the GPU's, but no tighter than 0.1 s from 60e9 parameters on."""
    return max(gpu.tpot_target_s, LARGE_MODEL_TPOT_S) if shape.params >= LARGE_MODEL_PARAMS else gpu.tpot_target_s
