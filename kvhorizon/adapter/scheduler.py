"""vLLM's schedulers with a plugin in them. Only this, and `telemetry/stat_logger.py` in another process, imports vLLM.

Each method does vLLM's own work by `super()` and tells the plugin before and after; what the plugin is told cannot
raise.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import vllm  # type: ignore[import-not-found, unused-ignore]
from vllm.platforms import current_platform  # type: ignore[import-not-found, unused-ignore]
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # type: ignore[import-not-found, unused-ignore]
from vllm.v1.core.sched.scheduler import Scheduler  # type: ignore[import-not-found, unused-ignore]

from kvhorizon.errors import in_a_line

if TYPE_CHECKING:
    from kvhorizon.adapter.plugin import Plugin

logger = logging.getLogger(__name__)

_Base: Any = object  # vLLM's class, at run time


class PluginMixin(_Base):  # type: ignore[misc]
    """Over vLLM's `Scheduler` or a subclass of it."""

    kvhorizon: Plugin | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kvhorizon = _attach(self)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's step, on the queue that the plugin presents."""
        plugin = self.kvhorizon
        if plugin is None:
            return super().schedule(*args, **kwargs)
        plugin.before_schedule()
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            plugin.restore()
        plugin.after_schedule(output.num_scheduled_tokens, output.total_num_scheduled_tokens)
        return output

    def add_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """A request comes."""
        result = super().add_request(request, *args, **kwargs)
        if self.kvhorizon is not None:
            self.kvhorizon.added(request)
        return result

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        plugin = self.kvhorizon
        if plugin is not None:
            plugin.account_preempting(request)
        result = super()._preempt_request(request, *args, **kwargs)
        if plugin is not None:
            plugin.preempted(request)
        return result

    def _update_after_schedule(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        if self.kvhorizon is not None:
            self.kvhorizon.account_scheduled(scheduler_output)
        return super()._update_after_schedule(scheduler_output, *args, **kwargs)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        plugin = self.kvhorizon
        if plugin is not None:
            plugin.account_release(request)
            plugin.released(request)
        return super()._free_request(request, *args, **kwargs)

    def get_request_counts(self) -> tuple[int, int]:
        """Running and waiting requests, those that the engine does not see among them."""
        running, waiting = super().get_request_counts()
        return running, waiting + (self.kvhorizon.hidden if self.kvhorizon is not None else 0)

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        """The scheduler plugin leaves first."""
        if self.kvhorizon is not None:
            self.kvhorizon.stop()
        return super().shutdown(*args, **kwargs)


class KvhorizonScheduler(PluginMixin, Scheduler):  # type: ignore[misc]
    """For synchronous scheduling."""


class AsyncKvhorizonScheduler(PluginMixin, AsyncScheduler):  # type: ignore[misc]
    """For asynchronous scheduling."""


def make_scheduler(*args: Any, **kwargs: Any) -> Any:
    """The scheduler that vLLM's configuration asks for."""
    config = kwargs.get("vllm_config") or args[0]
    asynchronous = config.scheduler_config.async_scheduling
    return (AsyncKvhorizonScheduler if asynchronous else KvhorizonScheduler)(*args, **kwargs)


def _attach(scheduler: Any) -> Plugin | None:
    """The plugin, or None where there can be none, or where one of its libraries is broken. Raises InputError."""
    try:
        from kvhorizon.adapter.factory import attach
    except Exception as error:
        logger.warning("kvhorizon could not be imported, vLLM goes on alone: %s", in_a_line(error))
        return None
    return attach(scheduler, vllm.__version__, _device_name())


def _device_name() -> str | None:
    """Of the GPU, where vLLM knows one."""
    try:
        return str(current_platform.get_device_name()) if not current_platform.is_cpu() else None
    except Exception:  # platforms differ; the name only prices recompute
        return None
