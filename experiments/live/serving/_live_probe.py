"""vLLM's scheduler and ours with the same measuring instrument in both, for a server in a process of its own.

`--scheduler-cls experiments.live.serving._live_probe.plain` or `.ours`. Whenever the engine runs dry, what was measured
since its start is written to the file that KVHORIZON_PROBE names: exact recompute (our accounting, whose counts
`fuzz_engine` proves), time in which a step was under way, and each step's work, begin and seconds, by the wall and by
its thread. An engine whose clients think runs dry often: where a file beside it (`.goal`) holds a number, this is done
only once so many requests have finished.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from experiments.live.serving._live_clock import own_s
from kvhorizon.adapter.accounting.recomputation import Accounting
from kvhorizon.adapter.engine_facts import model_shape
from kvhorizon.adapter.scheduler import AsyncKvhorizonScheduler, KvhorizonScheduler
from kvhorizon.state import StepCost

FILE = "KVHORIZON_PROBE"
_Base: Any = object


class Probe(_Base):  # type: ignore[misc]
    """Over any of vLLM's schedulers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._path = Path(os.environ[FILE])
        self._flight: list[tuple[float, float, list[int]]] = []  # begun steps: when, by both clocks, and their work
        self._account = Accounting(model_shape(self.vllm_config), StepCost(0.0, 0.0))
        self._steps: list[list[float]] = []
        self._work: list[int] = []
        self._busy_s = self._busy_since_s = 0.0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """A step begins."""
        begin_s, begin_own_s = time.perf_counter(), own_s()
        if not self._flight:
            self._busy_since_s = begin_s
        output = super().schedule(*args, **kwargs)
        self._flight.append((begin_s, begin_own_s, self._work))
        return output

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._account.preempting(request)
        return super()._preempt_request(request, *args, **kwargs)

    def _update_after_schedule(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self._account.scheduled(scheduler_output.num_scheduled_tokens, self.requests)
        self._work = self._work_of(scheduler_output.num_scheduled_tokens)
        return super()._update_after_schedule(scheduler_output, *args, **kwargs)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._account.release(request)
        return super()._free_request(request, *args, **kwargs)

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """A step ends."""
        output = super().update_from_output(*args, **kwargs)
        begin_s, begin_own_s, work = self._flight.pop(0)
        now_s = time.perf_counter()
        self._steps.append([*work, begin_s, now_s - begin_s, own_s() - begin_own_s])
        if not self._flight:
            self._busy_s += now_s - self._busy_since_s
        if not self.requests and self._account.finished >= self._goal():
            self._report()
        return output

    def _goal(self) -> int:
        try:
            return int(self._path.with_suffix(".goal").read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0

    def _work_of(self, num_tokens: dict[str, int]) -> list[int]:
        """Tokens, (query, context) pairs of prefills, KV tokens read by decodes, sequences."""
        pairs = read = 0
        for name, tokens in num_tokens.items():
            start = self.requests[name].num_computed_tokens
            if tokens > 1:
                pairs += tokens * start + tokens * (tokens + 1) // 2
            else:
                read += start + 1
        return [sum(num_tokens.values()), pairs, read, len(num_tokens)]

    def _report(self) -> None:
        account, plugin = self._account, getattr(self, "kvhorizon", None)
        found = {
            "finished": account.finished,
            "preemptions": account.total.preemptions,
            "recompute_tokens": account.total.recompute_tokens,
            "wasted_flops": account.total.wasted_flops,
            "useful_flops": account.useful_flops,
            "busy_s": self._busy_s + (time.perf_counter() - self._busy_since_s if self._flight else 0.0),
            "steps": self._steps,
            "ladder": dict(plugin.ladder) if plugin else {},
            "plans": dict(plugin.plans.counts) if plugin else {},
            "errors": plugin.guard.total + plugin.account_guard.total if plugin else 0,
            "child": _child(plugin),
        }
        whole = self._path.with_suffix(".part")
        whole.write_text(json.dumps(found), encoding="utf-8")
        whole.replace(self._path)


def _child(plugin: Any) -> int | None:
    """The solver child's process, where there is one."""
    child = getattr(plugin.session.solver, "child", None) if plugin is not None else None
    return None if child is None else int(child.pid)


class PlainProbe(Probe, Scheduler):  # type: ignore[misc]
    """vLLM's own."""


class PlainAsyncProbe(Probe, AsyncScheduler):  # type: ignore[misc]
    """vLLM's own, asynchronous."""


class OurProbe(Probe, KvhorizonScheduler):  # type: ignore[misc]
    """With the plugin."""


class OurAsyncProbe(Probe, AsyncKvhorizonScheduler):  # type: ignore[misc]
    """With the plugin, asynchronous."""


def plain(*args: Any, **kwargs: Any) -> Any:
    """vLLM's scheduler as its configuration asks."""
    return (PlainAsyncProbe if _asynchronous(args, kwargs) else PlainProbe)(*args, **kwargs)


def ours(*args: Any, **kwargs: Any) -> Any:
    """Ours likewise."""
    return (OurAsyncProbe if _asynchronous(args, kwargs) else OurProbe)(*args, **kwargs)


def _asynchronous(args: Any, kwargs: Any) -> bool:
    config = kwargs.get("vllm_config") or args[0]
    return bool(config.scheduler_config.async_scheduling)
