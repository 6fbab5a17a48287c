"""Which vLLM this is, and how much the plugin may do in it. Nothing else knows versions.

Full control on 0.28 … 0.33 and on 0.26, each checked by signature at start. Elsewhere admission and victim order only,
where the attributes are there; else vLLM is left alone.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections import deque
from typing import Any, NamedTuple

FULL = ((0, 26), *((0, minor) for minor in range(28, 34)))

_ATTRIBUTES = (
    *("waiting", "running", "requests", "policy", "block_size", "kv_cache_manager", "kv_cache_config"),
    *("scheduler_config", "max_num_running_reqs", "max_num_scheduled_tokens", "max_model_len", "vllm_config"),
)
_METHODS = {
    "schedule": (),
    "add_request": ("request",),
    "_free_request": ("request",),
    "_update_after_schedule": ("scheduler_output",),
    "get_request_counts": (),
}


class Level(enum.IntEnum):
    """How much the plugin does."""

    NONE = 0  # passes everything through
    ORDER = 1  # admission and the order of victims
    FULL = 2  # and evictions of its own


class Compat(NamedTuple):
    """The verdict, with its reason in one line."""

    level: Level
    reason: str


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of a version; (0, 0) where there is none in it."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def check(scheduler: Any, version: str) -> Compat:
    """How much the plugin may do in this scheduler of vLLM `version`."""
    missing = [name for name in _ATTRIBUTES if not hasattr(scheduler, name)]
    missing += [f"{name}()" for name, wanted in _METHODS.items() if not _takes(scheduler, name, wanted)]
    if missing:
        return Compat(Level.NONE, f"vLLM {version} lacks {', '.join(missing)}: it is left alone")
    reason = _unfit(scheduler)
    if reason:
        return Compat(Level.NONE, f"{reason}: vLLM is left alone")
    if parse_version(version) not in FULL:
        return Compat(Level.ORDER, f"vLLM {version} is not a release known well: admission and order of victims only")
    if not _takes(scheduler, "_preempt_request", ("request", "timestamp")):
        return Compat(Level.ORDER, f"vLLM {version} preempts in an unknown way: admission and order of victims only")
    return Compat(Level.FULL, f"full control of vLLM {version}")


def _takes(scheduler: Any, name: str, wanted: tuple[str, ...]) -> bool:
    method = getattr(scheduler, name, None)
    if not callable(method):
        return False
    kind = next((c for c in type(scheduler).__mro__ if name in vars(c) and c.__module__.startswith("vllm")), None)
    found = inspect.signature(vars(kind)[name] if kind is not None else method).parameters
    return all(argument in found for argument in wanted)


def _unfit(scheduler: Any) -> str:
    """Why no text-generating rule applies to this model, or this queue cannot be shown in part; or nothing."""
    if str(scheduler.policy.value) != "priority" and not isinstance(scheduler.waiting, deque):
        return "waiting requests are in a queue of an unknown kind"
    model = scheduler.vllm_config.model_config
    if getattr(model, "is_diffusion", False):
        return "a diffusion model does not generate token by token"
    if getattr(model, "runner_type", "generate") == "pooling":
        return "a pooling model generates no tokens"
    if getattr(scheduler, "is_encoder_decoder", False):
        return "an encoder-decoder model holds KV of another kind"
    if getattr(scheduler, "is_mm_encoder_only", False):
        return "an encoder without its language model generates no tokens"
    return ""


def evict(scheduler: Any, request: Any, timestamp_s: float) -> None:
    """Preempt a running request as `schedule()` would; the request is in `running` if this raises."""
    running = scheduler.running
    place = running.index(request)
    del running[place]
    options = {}
    if hasattr(scheduler, "requires_kv_delivery"):  # from 0.28 on
        options["drop_stale_output"] = scheduler.requires_kv_delivery
    try:
        scheduler._preempt_request(request, timestamp_s, **options)
    except BaseException:
        if request.status.name == "RUNNING":
            running.insert(place, request)
        raise
    told = getattr(scheduler, "reset_preempted_req_ids", None)
    if told is not None:  # 0.26 adds only those that it preempts by itself
        told.add(request.request_id)
