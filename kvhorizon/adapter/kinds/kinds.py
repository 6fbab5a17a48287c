"""Kinds of requests: whether their admission is chosen here, whether vLLM would look at them now, their LoRA adapter.

Text, LoRA, structured output, multimodal input and prompt embeddings are chosen from alike: their admission depends on
memory, and on limits that are known before the step. Streaming input comes back without a call, and KV or embeddings
from elsewhere come when they come: such requests pass in vLLM's own order (`passing`).
"""

from __future__ import annotations

from typing import Any

PATIENCE_S = 30.0  # so long a request may wait behind others because of its kind; then they make way for it
_GRAMMAR = "WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR"


def steerable(request: Any) -> bool:
    """Whether its admission is chosen here; others pass in vLLM's own order."""
    return not (
        request.pooling_params is not None
        or request.resumable
        or getattr(request, "kv_transfer_params", None)
        or getattr(request, "ec_transfer_params", None)
    )


def ready(request: Any) -> bool:
    """Whether vLLM would look at this waiting request: not blocked, holding no blocks, with no output in flight."""
    # `_name_` is the plain attribute; `name`, a property, takes two calls for each of those admitted
    if request.status._name_ not in ("WAITING", "PREEMPTED") and not _has_grammar(request):
        return False
    if request.num_computed_tokens > 0:
        return False
    return not getattr(request, "num_stale_output_tokens", 0) or bool(getattr(request, "drop_stale_output", False))


def lacks_grammar(request: Any) -> bool:
    """Whether it waits for its grammar, or that could not be compiled."""
    return request.status._name_ == _GRAMMAR and not _has_grammar(request)


def grammar_of(request: Any) -> Any:
    """What vLLM would find of it: None while it is being compiled, an exception where that failed."""
    structured = request.structured_output_request
    return structured.grammar if structured is not None else None


def adapter_of(request: Any) -> int:
    """Number of its LoRA adapter; 0: none."""
    lora = request.lora_request
    return int(getattr(lora, "lora_int_id", 0)) if lora is not None else 0


def _has_grammar(request: Any) -> bool:
    """Whether it waits for its grammar, and that is there: vLLM lets it on as soon as it looks at it."""
    if request.status._name_ != _GRAMMAR:
        return False
    grammar = grammar_of(request)
    return grammar is not None and not isinstance(grammar, Exception)
