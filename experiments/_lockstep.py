"""Run a scenario on both sides and compare every step."""

from __future__ import annotations

from dataclasses import dataclass, fields

from experiments._our_side import OurSide
from experiments._scenario import Scenario, Seen
from experiments._vllm_side import VllmSide


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a scenario showed."""

    steps: int
    preemptions: int
    mean_running: float
    difference: str | None  # the first one, in words; None where every step was equal


def differs(step: int, theirs: Seen, ours: Seen) -> str | None:
    """The first field in which a step differs."""
    for field in fields(Seen):
        one, other = getattr(theirs, field.name), getattr(ours, field.name)
        if one != other:
            return f"step {step}: {field.name}: vLLM {one}, ours {other}"
    return None


def compare(scenario: Scenario, ours: OurSide, most_steps: int = 1 << 40) -> Comparison:
    """Both sides step by step until all requests are done, a step differs, or `most_steps`."""
    theirs = VllmSide.start(scenario)
    arrived = steps = running = 0
    total = len(scenario.prompt)
    clock = 0
    while steps < most_steps and (arrived < total or theirs.unfinished):
        while arrived < total and scenario.arrival_step[arrived] <= clock:
            theirs.add(arrived)
            ours.add(arrived)
            arrived += 1
        if not theirs.unfinished:
            clock = int(scenario.arrival_step[arrived])
            continue
        expected, found = theirs.schedule(), ours.schedule()
        difference = differs(steps, expected, found)
        preemptions = sum(request.num_preemptions for request in theirs.requests)
        if difference:
            return Comparison(steps, preemptions, running / max(steps, 1), difference)
        theirs.execute()
        ours.execute()
        steps += 1
        clock += 1
        running += len(expected.running)
    preemptions = sum(request.num_preemptions for request in theirs.requests)
    if ours.unfinished != theirs.unfinished:
        return Comparison(steps, preemptions, running / max(steps, 1), "one side has requests left, the other has none")
    return Comparison(steps, preemptions, running / max(steps, 1), None)
