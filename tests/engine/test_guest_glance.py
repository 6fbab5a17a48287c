"""A glance says what a look at everybody would have said."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments._guest_driver import check_whole, drive, workload
from experiments._guest_engine import Setup


def served(seed: int, asynchronous: bool, glances: bool) -> tuple[Any, int]:
    """What an engine put out, and how many steps took a glance. Nothing is learned: that takes real time."""
    ours = drive(Setup(asynchronous=asynchronous))
    guest = ours.scheduler.kvhorizon
    guest.learner.poke = lambda _: None
    whole, taken = guest.control.glance, []

    def glance(now_s: float, may_evict: bool) -> bool:
        taken.append(glances and whole(now_s, may_evict))
        return taken[-1]

    guest.control.glance = glance
    requests = workload(120, seed)
    ours.run(requests, every=3)
    check_whole(ours.scheduler, requests, 160)
    assert guest.guard.total == 0
    return ours.trace, sum(taken)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_steps_with_and_without_glances_are_the_same(seed: int, asynchronous: bool) -> None:
    glanced, count = served(seed, asynchronous, glances=True)
    looked, none = served(seed, asynchronous, glances=False)
    assert glanced == looked
    assert count > 100
    assert none == 0


def test_newcomers_get_rows_when_somebody_looks_and_at_once_if_they_are_not_ours() -> None:
    """The first fills the pool; of those that come then, none can be admitted."""
    ours = drive(Setup(settings={"local_only": True}))
    guest = ours.scheduler.kvhorizon
    first, *others = workload(4, seed=1, prompt=(2000, 2000), output=(150, 150))
    ours.scheduler.add_request(first)
    for _ in range(8):
        ours.step()
    guest.ticker.due_s = 1e9
    ours.scheduler.add_request(others[0])
    for _ in range(2):
        ours.step()  # a look, whose answer stands from now on
    ours.scheduler.add_request(others[1])
    ours.step()
    assert list(guest.intake.outside) == [others[1].request_id]
    others[2].resumable = True
    ours.scheduler.add_request(others[2])
    ours.step()
    assert not guest.intake.outside
