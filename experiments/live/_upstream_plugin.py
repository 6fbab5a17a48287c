"""A pytest plugin for vLLM's own tests: our schedulers under the names of vLLM's, before any test imports them.

`KVHORIZON_UPSTREAM=plain` leaves vLLM's in place, to see what its tests do without us.
"""

from __future__ import annotations

import os

import pytest

MARKS = ("cpu_test", "skip_global_cleanup", "skip_v1", "core_model", "slow_test", "distributed", "optional")


def pytest_configure(config: pytest.Config) -> None:
    """Swap the classes; those that vLLM derives from its own (diffusion) keep their base."""
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: vLLM's own")
    if os.environ.get("KVHORIZON_UPSTREAM") == "plain":
        return
    from vllm.v1.core.sched import async_scheduler, diffusion_scheduler, scheduler

    from kvhorizon.adapter.scheduler import AsyncKvhorizonScheduler, KvhorizonScheduler

    assert issubclass(diffusion_scheduler.DiffusionScheduler, scheduler.Scheduler)
    scheduler.Scheduler = KvhorizonScheduler
    async_scheduler.AsyncScheduler = AsyncKvhorizonScheduler
