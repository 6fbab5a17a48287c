"""Synthetic workloads, seeded: what servers see, without anyone's data.

Lengths are log-normal, cut to a range; medians and spreads follow public traces: `chat` ShareGPT and Azure's
conversation trace (github.com/Azure/AzurePublicDataset), `reasoning` ServeGen's deepseek-r1 clients
(github.com/alibaba/ServeGen), `agentic` mini-swe-agent sessions (github.com/LMCache/lmcache-agent-trace). Arrivals are
Poisson at a nominal rate unless said otherwise; a what-if rescales them to its load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.sim.workload.trace import Trace, make_trace

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Generator = np.random.Generator
RATE = 4.0  # nominal requests per second
BLOCK = 64  # prompt tokens per prefix hash of `agentic` and `shared-prompt`
SYSTEM_PROMPT, SHARED_RATE = 1024, 60.0  # of `shared-prompt`: tokens, requests per second


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal, cut to [low, high] tokens."""

    median: float
    log_sigma: float
    low: int
    high: int

    def draw(self, rng: Generator, size: int) -> IntArray:
        """(size,) tokens."""
        values = rng.lognormal(np.log(self.median), self.log_sigma, size)
        return np.clip(np.rint(values), self.low, self.high).astype(np.int64)


SHORT_PROMPT = Lengths(220, 1.0, 4, 4000)
SHORT_OUTPUT = Lengths(160, 0.9, 2, 2000)
REASONING_PROMPT = Lengths(220, 0.9, 10, 6000)
REASONING_OUTPUT = Lengths(2200, 1.0, 20, 16000)
LONG_PROMPT = Lengths(440, 0.8, 10, 6000)
LONG_OUTPUT = Lengths(2900, 0.8, 100, 16000)
SHARED_OUTPUT = Lengths(100, 0.7, 2, 2000)
TURN_OUTPUT = Lengths(100, 0.45, 10, 400)


def _poisson(rng: Generator, size: int, rate: float = RATE) -> FloatArray:
    times = np.cumsum(rng.exponential(1.0 / rate, size))
    arrival: FloatArray = times - times[0]
    return arrival


def _mix(rng: Generator, long: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """Long requests where `long` (N,) says so, short ones elsewhere."""
    size = len(long)
    prompt = np.where(long, LONG_PROMPT.draw(rng, size), SHORT_PROMPT.draw(rng, size))
    output = np.where(long, LONG_OUTPUT.draw(rng, size), SHORT_OUTPUT.draw(rng, size))
    return prompt, output


def chat(rng: Generator, size: int) -> Trace:
    """Short prompts, short answers."""
    return make_trace("chat", _poisson(rng, size), SHORT_PROMPT.draw(rng, size), SHORT_OUTPUT.draw(rng, size))


def reasoning(rng: Generator, size: int) -> Trace:
    """Short prompts, very long answers."""
    arrival = _poisson(rng, size)
    return make_trace("reasoning", arrival, REASONING_PROMPT.draw(rng, size), REASONING_OUTPUT.draw(rng, size))


def mixed(rng: Generator, size: int) -> Trace:
    """A quarter long requests among short ones, each kind a tenant and a class of service of its own."""
    long = rng.random(size) < 0.25
    kinds = tuple("long" if one else "chat" for one in long)
    return make_trace("mixed", _poisson(rng, size), *_mix(rng, long), key=long.astype(np.int64), slo_class=kinds)


def bursty(rng: Generator, size: int) -> Trace:
    """As `mixed`, fewer long ones; three tenths of the time at 2.6 times the mean rate, the rest at a third of it."""
    long = rng.random(size) < 0.15
    busy = np.arange(size) % 120 < 94  # of 120 arrivals per cycle, 94 = 0.3 · 2.6 · 120 fall into the burst
    gaps = rng.exponential(1.0, size) / np.where(busy, 2.6 * RATE, (1.0 - 0.78) / 0.7 * RATE)
    times = np.cumsum(gaps)
    return make_trace("bursty", times - times[0], *_mix(rng, long), key=long.astype(np.int64))


def shift(rng: Generator, size: int) -> Trace:
    """The mix changes in an instant: sixths of the trace alternate between 3 % and 60 % long requests."""
    long = rng.random(size) < np.where((6 * np.arange(size) // max(size, 1)) % 2 == 1, 0.6, 0.03)
    return make_trace("shift", _poisson(rng, size), *_mix(rng, long))


def rollout(rng: Generator, size: int) -> Trace:
    """Reinforcement-learning rollouts: reasoning requests, all at time 0."""
    prompt, output = REASONING_PROMPT.draw(rng, size), REASONING_OUTPUT.draw(rng, size)
    return make_trace("rollout", np.zeros(size), prompt, output)


def agentic(rng: Generator, size: int) -> Trace:
    """Sessions of an agent: each turn's prompt is the last one's, its answer and a tool's output; prefixes repeat."""
    arrival: list[float] = []
    prompt: list[int] = []
    output: list[int] = []
    session: list[int] = []
    prefix: list[IntArray] = []
    start, number = 0.0, 0
    while len(arrival) < size:
        start += rng.exponential(12.0 / RATE)
        now = start
        context = int(rng.integers(1200, 1800))
        for _ in range(int(np.clip(rng.geometric(1 / 16), 2, 48))):
            answer = int(TURN_OUTPUT.draw(rng, 1)[0])
            arrival.append(now)
            prompt.append(context)
            output.append(answer)
            session.append(number)
            prefix.append(number * 100_000 + np.arange(context // BLOCK))
            context = min(context + answer + int(rng.lognormal(6.0, 0.8)), 40_000)
            now += 2.0 + float(rng.exponential(4.0))
        number += 1
    order = np.argsort(arrival, kind="stable")[:size]
    return make_trace(
        "agentic",
        np.array(arrival)[order] - arrival[order[0]],
        np.array(prompt, np.int64)[order],
        np.array(output, np.int64)[order],
        key=np.zeros(size, np.int64),
        prefix_hashes=tuple(prefix[n] for n in order),
        prefix_tokens=BLOCK,
        session=np.array(session, np.int64)[order],
    )


def shared_prompt(rng: Generator, size: int) -> Trace:
    """One system prompt of 1,024 tokens, 20 to 60 tokens of a request's own, short answers."""
    system = np.arange(SYSTEM_PROMPT // BLOCK)
    return make_trace(
        "shared-prompt",
        _poisson(rng, size, SHARED_RATE),
        SYSTEM_PROMPT + rng.integers(20, 61, size),
        SHARED_OUTPUT.draw(rng, size),
        prefix_hashes=(system,) * size,
        prefix_tokens=BLOCK,
    )


WORKLOADS: dict[str, Callable[[Generator, int], Trace]] = {
    "chat": chat,
    "reasoning": reasoning,
    "mixed": mixed,
    "bursty": bursty,
    "shift": shift,
    "rollout": rollout,
    "agentic": agentic,
    "shared-prompt": shared_prompt,
}


def synthesize(name: str, size: int, seed: int) -> Trace:
    """`size` requests of a named workload; the same for the same seed. Raises InputError."""
    if name not in WORKLOADS:
        raise InputError("workload", name, f"must be one of {', '.join(WORKLOADS)}")
    if size < 1:
        raise InputError("requests", size, "must be >= 1")
    return WORKLOADS[name](np.random.default_rng([seed, len(name)]), size)
