"""Which requests are alike, by what an engine sees of them: a chain of four keys, the general before the special.

    1  tenant (a name in `vllm_xargs`, else the cache salt) and LoRA adapter
    2  class that the client names; kind of sampling, structured output, stop strings
    3  limit of the output, in quarter octaves; 0 where only the context ends it
    4  length of the prompt, in classes as `models.forecast.history.chains.length_key` has them

A request's leaf holds all four in 56 bits; the keys before it are its upper bits, and every key ends with its level in
3 bits. Hints have a source, the tenant, and a leaf of their own: the source and the width of the range.

Where a trained model sorts requests into groups, the group takes the place of the prompt's class, and it goes first, as
in `models.forecast.learned.learned`: else no group could begin with the lengths that the model has of it, and each
tenant would have to learn all groups anew.

    5  group
    6  group, tenant and LoRA adapter
    7  group, tenant and adapter, class, sampling
    0  all of these and the limit

The group stands above the 52 other bits, `_GROUPED` and more, so that a leaf tells which of the two chains it has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.forecasting.hints import Hint, number_of_name
from kvhorizon.models.forecast.history.chains import PROMPT_CLASS_BITS
from kvhorizon.models.forecast.learned.features import SAMPLING_BITS

IntArray = NDArray[np.int64]

LEVELS = 4
# Bits of a leaf below the key of a level; the tenant's 24 stand above 32 others. Likewise of a leaf with a group.
_TENANT_SHIFT = 32
_SHIFTS = {1: _TENANT_SHIFT, 2: 12, 3: 4, 4: 0}
_GROUP_SHIFT, _GROUPED_TENANT_SHIFT = 52, 28
_GROUP_SHIFTS = {1: _GROUP_SHIFT, 2: _GROUPED_TENANT_SHIFT, 3: 8, 4: 0}
_GROUPED = 16  # first number of a group: no other leaf has a bit so high
MOST_GROUPS = 256 - _GROUPED
_LEVEL_BITS = 3
_WIDTH_BITS = 5


def leaf_of(request: Any, tenant: str, hint: Hint | None, limit: int, room: int, group: int = -1) -> int:
    """Of one request whose output ends at `limit` tokens, and at `room` by the context; −1 is no group."""
    lora = request.lora_request
    owner = tenant or getattr(request, "cache_salt", None) or ""
    if lora is not None:
        owner = f"{owner}\n{lora.lora_name}"
    name = hint.name & 0xFFFF if hint is not None else 0
    limit_class = 0 if limit >= room else 1 + round(4.0 * math.log2(max(limit, 1)))
    alike = ((_owner_bits(owner) << 16 | name) << 4 | _kind(request)) << 8 | limit_class
    if group >= 0:
        return int((_GROUPED + group) << _GROUP_SHIFT | alike)
    prompt_class = min((max(request.num_prompt_tokens, 1).bit_length() - 1) // PROMPT_CLASS_BITS, 15)
    return int(alike << 4 | prompt_class)


def group_keys(groups: IntArray) -> IntArray:
    """(n, 1) keys of (n,) groups, whoever the tenant."""
    keys: IntArray = (((_GROUPED + groups) << _LEVEL_BITS) | _tag(1, 1))[:, None]
    return keys


def source_of(leaf: int) -> int:
    """Of its hints."""
    return (leaf >> _GROUPED_TENANT_SHIFT) & 0xFFFFFF if _grouped(leaf) else leaf >> _TENANT_SHIFT


def hint_leaf(leaf: int, hint: Hint | None) -> int:
    """Key of its hint's ratio, as `models.forecast.hints.hint_chain` has it, plus 1; 0 where there is no number."""
    return 0 if hint is None or hint.tokens <= 0.0 else 1 + (source_of(leaf) << _WIDTH_BITS | hint.width)


def key_at(leaf: Any, level: int) -> Any:
    """The key of a level, 1 … 4, of one leaf or of (n,)."""
    grouped = _grouped(leaf)
    shift = _SHIFTS[level] + grouped * (_GROUP_SHIFTS[level] - _SHIFTS[level])
    return (leaf >> shift) << _LEVEL_BITS | _tag(level, grouped)


def level_of(key: int) -> int:
    """1 … 4, of a key."""
    return ((key & 7) - 1) % LEVELS + 1


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


def _grouped(leaf: Any) -> Any:
    """1 or 0."""
    return (leaf >> _GROUP_SHIFT >= _GROUPED) * 1


def _tag(level: int, grouped: Any) -> Any:
    """Last three bits of a key: 1 … 4, or 5, 6, 7 and 0."""
    return (level + LEVELS * grouped) & 7


def sampling_of(request: Any) -> int:
    """Kind of sampling, as `models.forecast.learned.features` reads it: structured 1, temperature zero 2, stop strings
    4."""
    return _kind(request) & ((1 << SAMPLING_BITS) - 1)


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
