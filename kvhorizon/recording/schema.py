"""What a recording holds of each request. Times are seconds; absent is None (in arrays: nan, or an empty string)."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from kvhorizon.extras import require

FORMAT = "3"  # grows with every change of the columns
# columns that the formats which can still be read do not have
OLDER_LACK = {"1": ("session", "sampling", "slo_class"), "2": ("slo_class",)}
SAMPLING_MOST = 7  # structured output 1, temperature zero 2, stop strings 4, added up
FORMAT_KEY = b"kvhorizon.format"
FACTS_KEY = b"kvhorizon.engine"
MAGIC = b"PAR1"  # first bytes of every Parquet file


class Row(NamedTuple):
    """One request, once it is over. What a log from elsewhere does not know stays at its default."""

    arrival_s: float  # time of day, seconds since 1970
    prompt_tokens: int
    output_tokens: int
    request_id: str = ""
    max_tokens: int | None = None
    priority: int = 0
    tenant: str = ""  # as the settings want it: a digest, or as the client gave it
    preemptions: int = 0
    recompute_tokens: int = 0
    restored_tokens: int = 0  # evicted, then found in the prefix cache or reloaded
    wasted_flops: float = 0.0
    recompute_s: float = 0.0  # by the step-time model
    ttft_s: float | None = None  # from arrival to the first token
    tpot_s: float | None = None  # mean between later tokens
    e2e_s: float | None = None  # from arrival to the last token
    finish: str = ""  # stop, length, abort, error, …
    mode: str = ""  # of the plugin when it ended
    prefix_hashes: tuple[int, ...] = ()  # one per full block of the prompt, each covering all before it
    session: str = ""  # conversation that the client names, told as the tenant is
    sampling: int | None = None  # 0 … SAMPLING_MOST
    slo_class: str = ""  # of service that the client names, at most 64 characters


_FLOATS = ("arrival_s", "wasted_flops", "recompute_s", "ttft_s", "tpot_s", "e2e_s")
TEXTS = ("request_id", "tenant", "finish", "mode", "session", "slo_class")


def arrow(field: str) -> tuple[Any, Any]:
    """pyarrow and its Parquet part, of which `field` is in need. Raises InputError where it is not installed."""
    require("pyarrow", "record", field)
    return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")


def schema(pa: Any, metadata: dict[bytes, bytes]) -> Any:
    """The columns of a file, in the order of `Row`."""
    kinds = {name: pa.float64() for name in _FLOATS} | {name: pa.string() for name in TEXTS}
    kinds["prefix_hashes"] = pa.list_(pa.int64())
    return pa.schema([(name, kinds.get(name, pa.int64())) for name in Row._fields], metadata=metadata)
