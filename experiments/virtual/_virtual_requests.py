"""A client's request as vLLM's scheduler takes it, and the tokens that the engine that is not there answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from experiments.engine._plugin_driver import get_hash_fn_by_name, get_request_block_hasher, init_none_hash  # isort: skip
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.request import Request

from experiments.live.defaults._defaults_loads import BLOCK, FIRST_TOKEN, STRUCTURED, VOCABULARY, Ask
from kvhorizon.adapter.forecasting.hints import NAME as HINT

END = 2  # token that ends an output
GRAMMAR_S = 0.03  # until a grammar is compiled


class Anything:
    """A grammar, for a scheduler without a tokenizer: it accepts all tokens."""

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """See `StructuredOutputGrammar`."""
        return True


def hasher() -> Callable[[Request], list[Any]]:
    """Of blocks, as an engine with prefix caching has one."""
    hash_of = get_hash_fn_by_name("sha256")
    init_none_hash(hash_of)
    return get_request_block_hasher(BLOCK, hash_of)


def request_of(name: str, ask: Ask, arrival_s: float, block_hasher: Any, hint: bool) -> Request:
    """vLLM's request; `hint`: its client tells the predicted length."""
    sampling = SamplingParams(
        max_tokens=ask.max_tokens,
        extra_args={HINT: ask.predicted} if hint else None,
        structured_outputs=StructuredOutputsParams(json_object=True) if ask.kind == STRUCTURED else None,
    )
    sampling.update_from_generation_config({}, END)
    return Request(
        request_id=name,
        prompt_token_ids=ask.prompt,
        sampling_params=sampling,
        pooling_params=None,
        arrival_time=arrival_s,
        lora_request=LoRARequest(f"adapter{ask.adapter}", ask.adapter, "nowhere") if ask.adapter else None,
        block_hasher=block_hasher,
    )


def compile_grammar(request: Request) -> Callable[[], None] | None:
    """Begin to compile the request's grammar, if it has one; the call returned ends it."""
    wanted = request.structured_output_request
    if wanted is None:
        return None
    future: Future[Any] = Future()
    wanted.grammar = future
    return lambda: future.set_result(Anything())


def answer_of(ask: Ask) -> list[int]:
    """All tokens that the engine will answer, the same whichever scheduler serves it."""
    draw = random.Random(ask.session * 1000 + ask.turn)
    return [*draw.choices(range(FIRST_TOKEN, VOCABULARY), k=ask.output_tokens - 1), END]
