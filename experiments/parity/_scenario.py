"""A lockstep scenario: an engine's configuration, requests, the steps at which they arrive; and what a step shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
NEVER = -1
STOP = 9_999_999  # a token that ends its request


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step decided; `scheduled`, `blocks`, `computed` and `preemptions` follow `running`."""

    running: list[int]
    waiting: list[int]
    scheduled: list[int]
    blocks: list[int]
    computed: list[int]  # before the step: what the prefix cache gave shows here
    free_blocks: int
    preemptions: list[int]
    outputs: list[int]  # tokens known of the running, then of the waiting


@dataclass(frozen=True, slots=True)
class Engine:
    """The configuration."""

    total_blocks: int
    block_size: int
    max_seqs: int
    max_tokens: int
    chunked: bool
    ahead: bool  # async scheduling: a step is decided while the one before it runs
    long_prefill_tokens: int
    watermark: float
    prefix_caching: bool
    by_priority: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """Drawn from a seed; requests are numbered in order of arrival."""

    seed: int
    engine: Engine
    tokens: tuple[IntArray, ...]  # of each request, prompt and output
    prompt: IntArray  # (N,)
    output: IntArray  # (N,)
    limit: IntArray  # (N,) of output tokens; where it is not reached, the last output token is STOP
    priority: IntArray  # (N,) the smaller the sooner
    arrival_step: IntArray  # (N,) ascending
    abort_step: IntArray  # (N,) step at which the client goes, or NEVER

    @property
    def max_model_len(self) -> int:
        """Longer than any request, and no longer than a step's tokens where prefills must not be chunked."""
        return int(max((self.prompt + self.output).max() + 8, 256))


def _arrivals(rng: np.random.Generator, requests: int, gap: float) -> IntArray:
    """Steps of arrival, a Poisson process of mean gap `gap` steps; in half the scenarios a sixth come at once."""
    arrival = np.floor(np.cumsum(rng.exponential(gap, requests))).astype(np.int64)
    if rng.random() < 0.5:
        arrival[: requests // 6] = 0
    return arrival


def _tokens(rng: np.random.Generator, prompt: IntArray, output: IntArray, limit: IntArray) -> tuple[IntArray, ...]:
    """Token ids: a third begin like one of three system prompts, a third continue an earlier request; rest its own."""
    size = len(prompt)
    systems = [np.full(int(prompt.max()), 10_000_000 + number, np.int64) for number in range(3)]
    kind = rng.integers(0, 3, size)
    found: list[IntArray] = []
    for n in range(size):
        mine = np.full(int(prompt[n] + output[n]), n + 1, np.int64)
        before = systems[int(rng.integers(0, 3))] if kind[n] == 0 else mine[:0]
        if kind[n] == 1 and n:
            before = found[int(rng.integers(max(0, n - 30), n))]
        shared = min(len(before), int(prompt[n] * min(rng.uniform(0.3, 1.3), 1.0)))
        mine[:shared] = before[:shared]
        if output[n] < limit[n]:
            mine[-1] = STOP
        found.append(mine)
    return tuple(found)


def _engine(rng: np.random.Generator, prompt: IntArray, output: IntArray, slow: bool) -> Engine:
    block_size = int(rng.choice([4, 8, 16, 32]))
    whole = -(-(prompt + output) // block_size)
    roomy = rng.random() < 0.9  # else the pool holds just the largest request
    chunked = bool(slow or rng.random() < 0.7)
    max_seqs = 16 if slow else int(rng.choice([16, 64, 128, 128]))
    held = rng.uniform(4.0, 8.0) if slow else rng.uniform(8.0, 24.0)  # that the pool holds, of mean size
    longest = int((prompt + output).max()) + 8
    few = 16 if slow else int(rng.choice([64, 256, 1024]))
    return Engine(
        total_blocks=int(max(whole.max(), held * whole.mean() if roomy else 0)),
        block_size=block_size,
        max_seqs=max_seqs,
        max_tokens=max(few if chunked else max(longest, 256), max_seqs),
        chunked=chunked,
        ahead=bool(rng.random() < 0.5),
        long_prefill_tokens=int(rng.choice([0, 0, 32, 200])) if chunked else 0,
        watermark=float(rng.choice([0.0, 0.0, 0.0, 0.0, 0.02, 0.1, 0.4] if roomy else [0.0, 0.4])),
        prefix_caching=bool(rng.random() < 0.5),
        by_priority=bool(rng.random() < (0.7 if slow else 0.3)),
    )


def draw(seed: int, requests: int) -> Scenario:
    """A random scenario under memory pressure: the pool holds a few of the larger requests, or some dozens."""
    rng = np.random.default_rng(seed)
    median = float(rng.choice([15, 40, 100]))
    slow = bool(rng.random() < 0.1)  # few tokens a step: prefills take many
    small, large = (1.0, 0.3) if rng.random() < (0.7 if slow else 0.15) else (0.3, 1.0)
    prompt = np.clip(rng.lognormal(np.log(small * median), 0.9, requests), 1, 4 * median).astype(np.int64)
    output = np.clip(rng.lognormal(np.log(large * median), 0.6, requests), 1, 5 * median).astype(np.int64)
    limit = output + rng.integers(0, 2, requests) * rng.integers(0, 5, requests)
    engine = _engine(rng, prompt, output, slow)
    arrival = _arrivals(rng, requests, float(output.mean()) / rng.uniform(16.0, 40.0))
    goes = rng.random(requests) < rng.choice([0.0, 0.05])
    after = arrival + 1 + rng.integers(0, 4 * int(output.mean()), requests)
    return Scenario(
        seed=seed,
        engine=engine,
        tokens=_tokens(rng, prompt, output, limit),
        prompt=prompt,
        output=output,
        limit=limit,
        priority=rng.integers(0, 3, requests) if engine.by_priority else np.zeros(requests, np.int64),
        arrival_step=arrival,
        abort_step=np.where(goes, after, NEVER),
    )
