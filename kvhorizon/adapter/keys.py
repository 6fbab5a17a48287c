"""Which requests are alike, by what an engine sees of them: a chain of four keys, the general before the special.

    1  tenant (a name in `vllm_xargs`, else the cache salt) and LoRA adapter
    2  class that the client names; kind of sampling, structured output, stop strings
    3  limit of the output, in quarter octaves; 0 where only the context ends it
    4  length of the prompt, in classes as `models.chains.length_key` has them

A request's leaf holds all four in 56 bits; the keys before it are its upper bits, and every key ends with its level in
3 bits. Hints have a source, the tenant, and a leaf of their own: the source and the width of the range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.hints import Hint, number_of_name
from kvhorizon.models.chains import PROMPT_CLASS_BITS

IntArray = NDArray[np.int64]

LEVELS = 4
_SHIFTS = (0, 32, 12, 4, 0)  # bits of a leaf below the key of a level; the tenant's 24 stand above 32 others
_LEVEL_BITS = 3
_WIDTH_BITS = 5


def leaf_of(request: Any, tenant: str, hint: Hint | None, limit: int, room: int) -> int:
    """Of one request whose output ends at `limit` tokens, and at `room` by the context."""
    lora = request.lora_request
    owner = tenant or getattr(request, "cache_salt", None) or ""
    if lora is not None:
        owner = f"{owner}\n{lora.lora_name}"
    name = hint.name & 0xFFFF if hint is not None else 0
    limit_class = 0 if limit >= room else 1 + round(4.0 * math.log2(max(limit, 1)))
    prompt_class = min((max(request.num_prompt_tokens, 1).bit_length() - 1) // PROMPT_CLASS_BITS, 15)
    return int(((_owner_bits(owner) << 16 | name) << 4 | _kind(request)) << 12 | limit_class << 4 | prompt_class)


def source_of(leaf: int) -> int:
    """Of its hints."""
    return leaf >> _SHIFTS[1]


def hint_leaf(leaf: int, hint: Hint | None) -> int:
    """Key of its hint's ratio, as `models.hint.hint_chain` has it, plus 1; 0 where there is no number."""
    return 0 if hint is None or hint.tokens <= 0.0 else 1 + (source_of(leaf) << _WIDTH_BITS | hint.width)


def key_at(leaf: Any, level: int) -> Any:
    """The key of a level, 1 … 4, of one leaf or of (n,)."""
    return (leaf >> _SHIFTS[level]) << _LEVEL_BITS | level


def chains_of(leaves: IntArray) -> IntArray:
    """(n, 4) keys of (n,) leaves."""
    return np.stack([key_at(leaves, level) for level in range(1, LEVELS + 1)], axis=1)


def hint_chains_of(leaves: IntArray) -> IntArray:
    """(n, 2) keys of hints' ratios, of (n,) hint leaves > 0: source; source and width."""
    ratio = leaves - 1
    return np.stack([-1 - (ratio >> _WIDTH_BITS), ratio], axis=1)


def hint_sources_of(leaves: IntArray) -> IntArray:
    """(n,) sources of (n,) hint leaves > 0."""
    return (leaves - 1) >> _WIDTH_BITS


def _owner_bits(owner: str) -> int:
    return number_of_name(owner) >> 8


def _kind(request: Any) -> int:
    """Four bits."""
    sampling = request.sampling_params
    structured = request.structured_output_request is not None
    if sampling is None:
        return int(structured)
    greedy = sampling.temperature == 0.0
    return int(structured) | int(greedy) << 1 | bool(sampling.stop) << 2 | bool(sampling.min_tokens) << 3
