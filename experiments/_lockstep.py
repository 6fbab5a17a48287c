"""Run a scenario on both sides and compare every step."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from experiments._our_side import OurSide
from experiments._scenario import NEVER, Scenario, Seen
from experiments._vllm_side import VllmSide


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a scenario showed."""

    steps: int
    preemptions: int
    mean_running: float
    cached_tokens: int  # found in the prefix cache
    aborted: int
    difference: str | None  # the first one, in words; None where every step was equal


def differs(step: int, theirs: Seen, ours: Seen) -> str | None:
    """The first field in which a step differs."""
    for field in fields(Seen):
        one, other = getattr(theirs, field.name), getattr(ours, field.name)
        if one != other:
            return f"step {step}: {field.name}: vLLM {one}, ours {other}"
    return None


class Clients:
    """Requests come, and some go before they are answered, on both sides alike."""

    def __init__(self, scenario: Scenario, theirs: VllmSide, ours: OurSide) -> None:
        self._scenario, self._sides = scenario, (theirs, ours)
        self._theirs = theirs
        going = np.argsort(scenario.abort_step, kind="stable")
        self._going = [int(n) for n in going if scenario.abort_step[n] != NEVER]
        self.arrived = self.aborted = 0

    @property
    def next_arrival(self) -> int | None:
        """Step of the next arrival, if one is to come."""
        steps = self._scenario.arrival_step
        return int(steps[self.arrived]) if self.arrived < len(steps) else None

    def until(self, clock: int) -> None:
        """Everything that clients do before step `clock`."""
        while self.next_arrival is not None and self.next_arrival <= clock:
            for side in self._sides:
                side.add(self.arrived)
            self.arrived += 1
        while self._going and self._scenario.abort_step[self._going[0]] <= clock:
            n = self._going.pop(0)
            if self._theirs.lives(n):
                self.aborted += 1
                for side in self._sides:
                    side.abort(n)


def compare(scenario: Scenario, ours: OurSide, most_steps: int = 1 << 40) -> Comparison:
    """Both sides step by step until all requests are done, a step differs, or `most_steps`."""
    theirs = VllmSide.start(scenario)
    clients = Clients(scenario, theirs, ours)
    steps = running = clock = 0
    difference = None
    while steps < most_steps and difference is None:
        clients.until(clock)
        if not theirs.unfinished:
            if clients.next_arrival is None:
                break
            clock = clients.next_arrival
            continue
        expected, found = theirs.schedule(), ours.schedule()
        difference = differs(steps, expected, found)
        theirs.execute()
        ours.execute()
        steps += 1
        clock += 1
        running += len(expected.running)
    if difference is None and ours.unfinished != theirs.unfinished:
        difference = "one side has requests left, the other has none"
    preemptions = sum(request.num_preemptions for request in theirs.requests)
    mean_running = running / max(steps, 1)
    return Comparison(steps, preemptions, mean_running, ours.cached_tokens, clients.aborted, difference)
