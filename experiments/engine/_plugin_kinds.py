"""Requests of every kind for vLLM's own scheduler: LoRA, structured output, images, embeddings, streams, later turns.

Grammars are compiled by no backend: the caller says when one is ready, or failed.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.request import Request
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from experiments.engine._plugin_engine import BLOCK


class AnyOutput(StructuredOutputGrammar):
    """A grammar of all sequences."""

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """All."""
        return True

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """All."""
        return tokens

    def rollback(self, num_tokens: int) -> None:
        """Nothing to take back."""

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        """Everything is allowed."""

    def is_terminated(self) -> bool:
        """Never."""
        return False

    def reset(self) -> None:
        """Nothing to forget."""


@dataclass(frozen=True)
class Kind:
    """What a request wants besides text."""

    lora: int = 0  # number of the adapter; 0: none
    structured: bool = False
    images: tuple[tuple[str, int, int], ...] = ()  # name, first token and length of each
    embeddings: bool = False
    streams: bool = False
    priority: int = 0


PLAIN = Kind()


@dataclass
class Maker:
    """Of one engine's requests. `grammars` are those under compilation, by request."""

    caching: bool = False
    grammars: dict[str, Future[Any]] = field(default_factory=dict)

    def request(self, name: str, tokens: list[int], output: int, kind: Kind = PLAIN) -> Request:
        """One request; with embeddings its tokens stand for as many vectors."""
        sampling = SamplingParams(
            max_tokens=output,
            ignore_eos=True,
            structured_outputs=StructuredOutputsParams(regex=".*") if kind.structured else None,
        )
        sampling.update_from_generation_config({}, 2)
        found = Request(
            request_id=name,
            prompt_token_ids=None if kind.embeddings else tokens,
            prompt_embeds=torch.tensor(tokens, dtype=torch.float32)[:, None] if kind.embeddings else None,
            sampling_params=sampling,
            pooling_params=None,
            priority=kind.priority,
            lora_request=LoRARequest(f"adapter-{kind.lora}", kind.lora, "none") if kind.lora else None,
            mm_features=[_image(*image) for image in kind.images] or None,
            resumable=kind.streams,
            block_hasher=self._hasher(),
        )
        if kind.structured:
            self.grammars[name] = Future()
            found.structured_output_request.grammar = self.grammars[name]
        return found

    def compiled(self, name: str, error: Exception | None = None) -> None:
        """The request's grammar is ready, or failed."""
        future = self.grammars.pop(name)
        if error is None:
            future.set_result(AnyOutput())
        else:
            future.set_exception(error)

    def _hasher(self) -> Any:
        if not self.caching:
            return None
        hash_of = get_hash_fn_by_name("sha256")
        init_none_hash(hash_of)
        return get_request_block_hasher(BLOCK, hash_of)


def _image(name: str, offset: int, length: int) -> MultiModalFeatureSpec:
    """An image of so many embeddings."""
    place = PlaceholderRange(offset=offset, length=length)
    return MultiModalFeatureSpec(data=None, modality="image", identifier=name, mm_position=place, mm_hash=name)
