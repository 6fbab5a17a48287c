"""The largest load, the smallest pool or the fewest replicas at which a policy still keeps to stated goals.

Bisection: the goals are taken to hold on one side of the answer and not on the other, as they do where queues grow
with load. Every point that was tried is in the answer, so that a reader sees where that is not so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kvhorizon.errors import InputError
from kvhorizon.sim.fleet.engines import MOST_REPLICAS
from kvhorizon.sim.setup import Setup
from kvhorizon.whatif.goals import Goal
from kvhorizon.whatif.question import Question


class Sought(NamedTuple):
    """What is varied, and within which bounds."""

    name: str
    largest: bool  # the largest value is sought; else the smallest
    low: float
    high: float
    whole: bool


class Found(NamedTuple):
    """A policy's answer; `value` is None where the goals hold nowhere between the bounds."""

    policy: str
    value: float | None
    tried: list[tuple[float, bool]]  # in order of trial


PRECISION = 0.02  # relative
OVER = {
    "load": Sought("load", True, 0.05, 3.0, False),
    "kv_blocks": Sought("kv_blocks", False, 0.0, math.inf, True),
    "replicas": Sought("replicas", False, 1.0, MOST_REPLICAS, True),
}


def sought(setup: Setup, over: str) -> Sought:
    """The bounds for this engine and trace: a pool from its largest request up to 16 times what the GPU gives."""
    if over not in OVER:
        raise InputError("over", over, f"must be one of {', '.join(OVER)}")
    if over != "kv_blocks":
        return OVER[over]
    largest = int((setup.trace.prompt_tokens + setup.trace.output_tokens).max())
    least = -(-largest // setup.facts.block_size) + 1
    return OVER[over]._replace(low=float(least), high=float(max(16 * setup.facts.total_blocks, 2 * least)))


def search(
    question: Question, policy: str, goals: Sequence[Goal], what: Sought, ask: Callable[[Question], dict[str, Any]]
) -> Found:
    """Bisect for one policy; `ask` gives the results of a question with that policy alone."""
    tried: list[tuple[float, bool]] = []

    def holds(value: float) -> bool:
        argument = int(value) if what.whole else value
        changes: dict[str, Any] = {what.name: argument, "policies": (policy,)}
        asked = dataclasses.replace(question, **changes)
        entry = ask(asked)["policies"][0]
        met = all(goal.met(entry) for goal in goals)
        tried.append((argument, met))
        return met

    easy, hard = (what.low, what.high) if what.largest else (what.high, what.low)
    if not holds(easy):
        return Found(policy, None, tried)
    if holds(hard):
        return Found(policy, hard, tried)
    while abs(hard - easy) > PRECISION * min(easy, hard) and abs(hard - easy) > (1.0 if what.whole else 0.0):
        middle = math.sqrt(easy * hard)
        middle = float(round(middle)) if what.whole else round(middle, 4)
        if holds(middle):
            easy = middle
        else:
            hard = middle
    return Found(policy, easy, tried)
