"""How long KV takes to come back from host memory, where an engine keeps there what it evicts.

reload_s = KV bytes of a token on one GPU / bytes a second of the bus
"""

from __future__ import annotations

from kvhorizon.models.performance.shape import ModelShape

HOST_GB_S = 25.0  # of PCIe 4.0 with 16 lanes: 31.5 GB/s less protocol and gaps between blocks
UNKNOWN_KV_BYTES = 131072.0  # of a token, of an 8B model with grouped heads


def kv_bytes_on_one(shape: ModelShape | None, tp: int) -> float:
    """KV bytes of a token on each of `tp` GPUs; those of a common model where the shape is unknown."""
    return UNKNOWN_KV_BYTES / tp if shape is None else shape.kv_bytes_per_token() * shape.kv_share(tp)


def reload_s_per_token(kv_bytes: float, gb_s: float = HOST_GB_S) -> float:
    """Seconds for one token's KV of so many bytes, at `gb_s` > 0 billion bytes a second."""
    return kv_bytes / (gb_s * 1e9)
