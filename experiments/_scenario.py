"""A lockstep scenario: an engine's configuration, requests, the steps at which they arrive; and what a step shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step decided; `scheduled`, `blocks` and `preemptions` follow `running`."""

    running: list[int]
    waiting: list[int]
    scheduled: list[int]
    blocks: list[int]
    free_blocks: int
    preemptions: list[int]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Drawn from a seed; requests are numbered in order of arrival."""

    seed: int
    total_blocks: int
    block_size: int
    max_seqs: int
    max_tokens: int
    chunked: bool
    long_prefill_tokens: int
    watermark: float
    prompt: IntArray  # (N,)
    output: IntArray  # (N,)
    arrival_step: IntArray  # (N,) ascending

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


def draw(seed: int, requests: int) -> Scenario:
    """A random scenario under memory pressure: the pool holds a few of the larger requests, or some dozens."""
    rng = np.random.default_rng(seed)
    block_size = int(rng.choice([4, 8, 16, 32]))
    median = float(rng.choice([30, 80, 200]))
    prompt = np.clip(rng.lognormal(np.log(0.3 * median), 0.9, requests), 1, 4 * median).astype(np.int64)
    output = np.clip(rng.lognormal(np.log(median), 0.6, requests), 1, 5 * median).astype(np.int64)
    whole = -(-(prompt + output) // block_size)
    roomy = rng.random() < 0.9  # else the pool holds just the largest request
    total_blocks = int(max(whole.max(), rng.uniform(8.0, 20.0) * whole.mean() if roomy else 0))
    chunked = bool(rng.random() < 0.75)
    longest = int((prompt + output).max()) + 8
    max_seqs = int(rng.choice([16, 64, 128]))
    max_tokens = int(rng.choice([64, 256, 1024])) if chunked else max(longest, 256)
    gap = float(output.mean()) / rng.uniform(50.0, 300.0)
    return Scenario(
        seed=seed,
        total_blocks=total_blocks,
        block_size=block_size,
        max_seqs=max_seqs,
        max_tokens=max(max_tokens, max_seqs),
        chunked=chunked,
        long_prefill_tokens=int(rng.choice([0, 0, 32, 200])) if chunked else 0,
        watermark=float(rng.choice([0.0, 0.0, 0.0, 0.02, 0.1, 0.4])),
        prompt=prompt,
        output=output,
        arrival_step=_arrivals(rng, requests, gap),
    )
