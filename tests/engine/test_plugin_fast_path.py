"""The fast path says what a full look would have said."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine._plugin_driver import check_whole, drive, workload
from experiments.engine._plugin_engine import Setup


def served(seed: int, asynchronous: bool, fast: bool) -> tuple[Any, int]:
    """What an engine put out, and how many steps took the fast path. Nothing is learned: that takes real time."""
    ours = drive(Setup(asynchronous=asynchronous))
    plugin = ours.scheduler.kvhorizon
    plugin.learner.poke = lambda _: None
    whole, taken = plugin.control.fast_path, []

    def fast_path(now_s: float, may_evict: bool) -> bool:
        taken.append(fast and whole(now_s, may_evict))
        return taken[-1]

    plugin.control.fast_path = fast_path
    requests = workload(120, seed)
    ours.run(requests, every=3)
    check_whole(ours.scheduler, requests, 160)
    assert plugin.guard.total == 0
    return ours.trace, sum(taken)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_steps_with_and_without_fast_are_the_same(seed: int, asynchronous: bool) -> None:
    glanced, count = served(seed, asynchronous, fast=True)
    looked, none = served(seed, asynchronous, fast=False)
    assert glanced == looked
    assert count > 100
    assert none == 0


def test_newcomers_get_rows_when_some_request_looks_and_at_once_if_they_are_not_ours() -> None:
    """The first fills the pool; of those that come then, none can be admitted."""
    ours = drive(Setup(settings={"local_only": True}))
    plugin = ours.scheduler.kvhorizon
    first, *others = workload(4, seed=1, prompt=(2000, 2000), output=(150, 150))
    ours.scheduler.add_request(first)
    for _ in range(8):
        ours.step()
    plugin.ticker.due_s = 1e9
    ours.scheduler.add_request(others[0])
    for _ in range(2):
        ours.step()  # a look, whose answer stands from now on
    ours.scheduler.add_request(others[1])
    ours.step()
    assert list(plugin.intake.outside) == [others[1].request_id]
    others[2].resumable = True
    ours.scheduler.add_request(others[2])
    ours.step()
    assert not plugin.intake.outside
