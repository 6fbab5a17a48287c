"""Record a scenario on vLLM's scheduler; play the recording to ours and compare every step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from experiments.parity._our_side import OurSide
from experiments.parity._scenario import NEVER, Scenario, Seen
from experiments.parity._vllm_side import VllmSide


class Step(NamedTuple):
    """What the clients did before a step, what vLLM then decided, what they did before it was heard of."""

    came: tuple[int, ...]
    went: tuple[int, ...]
    seen: Seen
    left: tuple[int, ...]  # clients that went while it ran


@dataclass(frozen=True, slots=True)
class Recording:
    """A scenario on vLLM's scheduler, up to its end or to a number of steps."""

    scenario: Scenario
    steps: list[Step]
    ended: bool  # every request is done
    preemptions: int

    @property
    def mean_running(self) -> float:
        """Requests in the batch."""
        return sum(len(step.seen.running) for step in self.steps) / max(len(self.steps), 1)

    @property
    def aborted(self) -> int:
        """Requests whose client went before the end."""
        return sum(len(step.went) + len(step.left) for step in self.steps)


class Clients:
    """Requests come, and some go before they are answered."""

    def __init__(self, scenario: Scenario, theirs: VllmSide) -> None:
        self._scenario, self._theirs = scenario, theirs
        going = [int(n) for n in np.argsort(scenario.abort_step, kind="stable") if scenario.abort_step[n] != NEVER]
        self._going = [[n for n in going if n % 2 == half] for half in (0, 1)]
        self._arrived = 0

    @property
    def next_arrival(self) -> int | None:
        """Step of the next arrival, if one is to come."""
        steps = self._scenario.arrival_step
        return int(steps[self._arrived]) if self._arrived < len(steps) else None

    def come(self, clock: int) -> tuple[int, ...]:
        """All requests that arrive by step `clock`."""
        first = self._arrived
        while self.next_arrival is not None and self.next_arrival <= clock:
            self._theirs.add(self._arrived)
            self._arrived += 1
        return tuple(range(first, self._arrived))

    def go(self, clock: int, half: int) -> tuple[int, ...]:
        """All requests that go by step `clock`, of those that are there, and go before it (`half` 0) or in its
        midst."""
        gone, going = [], self._going[half]
        while going and self._scenario.abort_step[going[0]] <= clock:
            n = going.pop(0)
            if self._theirs.lives(n):
                gone.append(n)
                self._theirs.abort(n)
        return tuple(gone)


def record(scenario: Scenario, most_steps: int = 1 << 40) -> Recording:
    """vLLM's side until all requests are done, or `most_steps`."""
    theirs = VllmSide.start(scenario)
    clients = Clients(scenario, theirs)
    steps: list[Step] = []
    came: tuple[int, ...] = ()
    went: tuple[int, ...] = ()
    clock = 0
    while len(steps) < most_steps:
        came, went = came + clients.come(clock), went + clients.go(clock, 0)
        if not theirs.unfinished:
            if clients.next_arrival is None:
                break
            clock = clients.next_arrival
            continue
        seen = theirs.schedule()
        steps.append(Step(came, went, seen, clients.go(clock, 1)))
        came = went = ()
        theirs.execute()
        clock += 1
    preemptions = sum(request.num_preemptions for request in theirs.requests)
    return Recording(scenario, steps, not theirs.unfinished, preemptions)


def differs(step: int, theirs: Seen, ours: Seen) -> str | None:
    """The first field in which a step differs."""
    for field in fields(Seen):
        one, other = getattr(theirs, field.name), getattr(ours, field.name)
        if one != other:
            return f"step {step}: {field.name}: vLLM {one}, ours {other}"
    return None


def difference(recording: Recording, ours: OurSide) -> str | None:
    """The first difference, in words; None where every step is equal."""
    for number, step in enumerate(recording.steps):
        for n in step.came:
            ours.add(n)
        for n in step.went:
            ours.abort(n)
        found = differs(number, step.seen, ours.schedule())
        if found:
            return found
        for n in step.left:
            ours.abort(n)
        ours.execute()
    if recording.ended and ours.unfinished:
        return "ours has requests left, vLLM has none"
    return None
