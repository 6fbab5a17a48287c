"""Just enough of vLLM's requests and scheduler for the plugin's parts to work on."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Status(enum.Enum):
    """vLLM's names."""

    WAITING = 1
    RUNNING = 2
    PREEMPTED = 3
    WAITING_FOR_REMOTE_KVS = 4
    FINISHED_ABORTED = 5
    WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR = 6


def request(name: str, prompt: int = 10, output: int = 0, computed: int = 0, **more: Any) -> Any:
    """A plain text request."""
    fields: dict[str, Any] = {
        "request_id": name,
        "num_prompt_tokens": prompt,
        "num_output_tokens": output,
        "num_tokens": prompt + output,
        "num_computed_tokens": computed,
        "num_output_placeholders": 0,
        "spec_token_ids": [],
        "num_preemptions": 0,
        "max_tokens": 100,
        "priority": 0,
        "arrival_time": 0.0,
        "status": Status.WAITING,
        "sampling_params": None,
        "pooling_params": None,
        "lora_request": None,
        "cache_salt": None,
        "structured_output_request": None,
        "mm_features": [],
        "resumable": False,
        "prompt_embeds": None,
    }
    return SimpleNamespace(**{**fields, **more}, is_finished=lambda: False)


class Pool:
    """Counts free blocks."""

    def __init__(self, total: int, free: int) -> None:
        self.num_gpu_blocks, self.free = total + 1, free

    def get_num_free_blocks(self) -> int:
        return self.free


def scheduler(total: int = 100, free: int = 100, seats: int = 8, **more: Any) -> Any:
    """First come, first served; one group of full attention."""
    group = SimpleNamespace(kv_cache_spec=SimpleNamespace())
    fields: dict[str, Any] = {
        "waiting": deque(),
        "running": [],
        "requests": {},
        "policy": SimpleNamespace(value="fcfs"),
        "block_size": 16,
        "kv_cache_manager": SimpleNamespace(
            block_pool=Pool(total, free), enable_caching=False, coordinator=SimpleNamespace()
        ),
        "kv_cache_config": SimpleNamespace(kv_cache_groups=[group]),
        "scheduler_config": SimpleNamespace(long_prefill_token_threshold=0),
        "max_num_running_reqs": seats,
        "max_num_scheduled_tokens": 256,
        "max_model_len": 4096,
    }
    return SimpleNamespace(**{**fields, **more})


def wait_for(reached: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once `reached`; fails if that takes more than `seconds`."""
    deadline_s = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
