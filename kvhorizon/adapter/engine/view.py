"""What the plugin reads of vLLM's scheduler: sizes and room.

Blocks are counted per token position: where several groups of layers grow with the context, one block here is one of
each group. Layers with a bounded window take a bounded share, which is left to vLLM's own check; where no other are
there, a request's KV stops growing at `window_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.step_demand import Sizes

IntArray = NDArray[np.int64]


class Engine:
    """One scheduler, by the attributes that `compat` has checked."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        manager = scheduler.kv_cache_manager
        self._pool = manager.block_pool
        self.block_size = int(scheduler.block_size)
        self.prefix_tokens = self.block_size if getattr(manager, "enable_caching", True) else 0  # of a block's hash
        self.groups = growing_groups(scheduler)
        self.window_tokens = window_tokens(scheduler)
        self.total_blocks = (int(self._pool.num_gpu_blocks) - 1) // self.groups
        self.watermark_blocks = int(getattr(manager, "watermark_blocks", 0)) // self.groups
        self.by_priority = str(scheduler.policy.value) == "priority"
        active = getattr(scheduler, "max_num_active_reqs", None)
        self.max_active = int(active if active is not None else scheduler.max_num_running_reqs)
        self.token_budget = int(scheduler.max_num_scheduled_tokens)
        self.long_prefill = int(getattr(scheduler.scheduler_config, "long_prefill_token_threshold", 0) or 0)
        self.lookahead = int(getattr(scheduler, "num_lookahead_tokens", 0))
        self.step_tokens = 1 + int(getattr(scheduler, "num_spec_tokens", 0))  # of a decode at most, drafts among them
        self.max_model_len = int(scheduler.max_model_len)
        self.asynchronous = bool(getattr(scheduler.scheduler_config, "async_scheduling", True))
        self.has_connector = getattr(scheduler, "connector", None) is not None  # waiting requests change by themselves
        self.max_loras = int(getattr(getattr(scheduler, "lora_config", None), "max_loras", 0) or 0)  # 0: no LoRA
        self._tables = block_tables(scheduler)
        self._can_free = getattr(scheduler, "_request_blocks_can_be_freed", None)
        self._frees_later = hasattr(scheduler, "deferred_frees")

    @property
    def free_blocks(self) -> int:
        """Now."""
        return int(self._pool.get_num_free_blocks()) // self.groups

    @property
    def paused(self) -> bool:
        """Whether the engine admits none, or not all."""
        return int(getattr(self.scheduler, "_pause_state", 0)) != 0

    @property
    def seats(self) -> int:
        """Requests that may still join the batch."""
        streaming = int(getattr(self.scheduler, "num_waiting_for_streaming_input", 0))
        return self.max_active - len(self.scheduler.running) - streaming

    @property
    def apart(self) -> Iterable[Any]:
        """Requests that wait outside the queue: they hold blocks, or did until their KV failed to come."""
        return getattr(self.scheduler, "kv_holding_waiting", ())

    @property
    def sizes(self) -> Sizes:
        """What `demand` wants to know."""
        return Sizes(
            self.block_size,
            self.lookahead,
            self.step_tokens,
            self.max_model_len,
            self.token_budget,
            self.long_prefill,
        )

    def blocks_of(self, tokens: IntArray) -> IntArray:
        """Blocks that hold so many tokens, no more than the longest sequence."""
        return np.asarray(-(-np.minimum(tokens, self.max_model_len) // self.block_size), dtype=np.int64)

    def holds(self, request: Any) -> int:
        """Blocks that it has in a group whose KV grows, empty ones among them."""
        return len((self._tables or {}).get(request.request_id, ()))

    def gives_back(self, request: Any, blocks: int, later: bool = False) -> int:
        """Blocks that an eviction frees; those shared with others stay. 0 where they cannot be freed now.

        `later`: or as soon as the step at work is over, which is when vLLM frees them where a connector may write.
        """
        if self._can_free is not None and not self._can_free(request) and not (later and self._frees_later):
            return 0
        if not self.prefix_tokens or self._tables is None:
            return blocks
        return sum(block.ref_cnt <= 1 for block in self._tables.get(request.request_id, ()))


def block_tables(scheduler: Any) -> Mapping[str, Sequence[Any]] | None:
    """vLLM's own, by request, of the first group of layers whose KV grows with the context; None where it has none."""
    managers = getattr(scheduler.kv_cache_manager.coordinator, "single_type_managers", None)
    return managers[growing_group(scheduler)].req_to_blocks if managers else None


def growing_group(scheduler: Any) -> int:
    """The first group of layers whose KV grows with the context; 0 where none does without bound."""
    return next((place for place, spec in enumerate(_specs(scheduler)) if not _bounded(spec)), 0)


def growing_groups(scheduler: Any) -> int:
    """Groups of layers whose KV grows with the context; all of them where none does without bound; at least 1."""
    groups = _specs(scheduler)
    return sum(not _bounded(spec) for spec in groups) or max(len(groups), 1)


def window_tokens(scheduler: Any) -> int:
    """Tokens whose KV one request holds at most, where every group of layers has a bound; else 0.

    A window may begin inside a block, so it takes one block more.
    """
    groups = _specs(scheduler)
    if not groups or not all(_bounded(spec) for spec in groups):
        return 0
    windows = [getattr(spec, "sliding_window", 0) or getattr(spec, "attention_chunk_size", 0) for spec in groups]
    return int(max(windows)) + int(scheduler.block_size)


def _specs(scheduler: Any) -> list[Any]:
    """Of each group of layers, how its KV is kept."""
    return [group.kv_cache_spec for group in scheduler.kv_cache_config.kv_cache_groups]


def _bounded(spec: Any) -> bool:
    return type(spec).__name__.startswith(("SlidingWindow", "ChunkedLocal", "Mamba"))
