"""Multimodal requests whose encoder inputs may not fit this step stand last, in the order of the choice.

vLLM ends its look at the queue where an encoder input exceeds its compute budget or its cache. What surely fits is
counted on the safe side: all inputs of a request that no other refers to, also those that a later chunk brings.
Since nothing but its like stands behind an unsure one, it keeps no other request from joining, and has the first claim
among its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def unsure_last(shown: Sequence[Any], scheduler: Any) -> list[Any]:
    """The same requests, text and what surely fits first."""
    manager = scheduler.encoder_cache_manager
    cached = getattr(manager, "cached", {})
    left = min(int(scheduler.max_num_encoder_input_tokens), int(getattr(manager, "num_freeable_slots", 0)))
    left -= sum(_wanted(request, cached) for request in scheduler.running if _encodes(request))
    sure: list[Any] = []
    unsure: list[Any] = []
    for request in shown:
        wanted = _wanted(request, cached) if request.mm_features else 0
        if request.mm_features and (unsure or wanted > left):
            unsure.append(request)
        else:
            sure.append(request)
            left -= wanted
    return sure + unsure


def _encodes(request: Any) -> bool:
    """Whether some of its encoder inputs may be to come."""
    return bool(request.mm_features) and request.num_computed_tokens < request.num_prompt_tokens


def _wanted(request: Any, cached: Any) -> int:
    """Embeddings that it may have to make and keep: each input once, unless another request refers to it."""
    sizes = {one.identifier: _embeddings(one.mm_position) for one in request.mm_features}
    return sum(size for name, size in sizes.items() if not cached.get(name))


def _embeddings(position: Any) -> int:
    """Of one input; tokens around them do not count, where vLLM tells them apart."""
    count = getattr(position, "get_num_embeds", position.length)
    return int(count() if callable(count) else count)
