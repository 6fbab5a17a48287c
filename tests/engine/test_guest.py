"""The guest in vLLM's real scheduler: unseen while it observes, and never in the way of a request."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments._guest_driver import Setup, check_whole, drive, workload
from kvhorizon.adapter.modes import Mode


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("mode", ["off", "observe", "advise"])
def test_measuring_changes_nothing(mode: str, asynchronous: bool) -> None:
    plain = drive(Setup(guest=False, asynchronous=asynchronous)).run(workload(60, seed=1))
    settings = {"local_only": True, "mode": mode}
    ours = drive(Setup(asynchronous=asynchronous, settings=settings)).run(workload(60, seed=1))
    assert ours.steps == plain.steps
    assert ours.trace == plain.trace
    guest = ours.scheduler.kvhorizon
    assert guest.guard.total == guest.account_guard.total == 0
    assert guest.accounting.total.preemptions > 0
    assert guest.accounting.total.recompute_tokens > 0


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("caching", [False, True])
def test_control_serves_everybody(asynchronous: bool, policy: str, caching: bool) -> None:
    requests = workload(80, seed=2, caching=caching, shared=64 if caching else 0, priorities=3)
    setup = Setup(asynchronous=asynchronous, policy=policy, caching=caching)
    ours = drive(setup).run(requests)
    check_whole(ours.scheduler, requests, setup.blocks)
    guest = ours.scheduler.kvhorizon
    assert guest.guard.total == guest.account_guard.total == 0
    assert guest.ladder["local"] > 0
    assert guest.mode is Mode.CONTROL
