"""What a replay leaves behind: one row per request, totals, and a timeline to draw."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one policy on one trace. Times are virtual seconds since the trace began."""

    first_token_s: FloatArray  # (N,) nan if never
    finish_s: FloatArray  # (N,) nan if never
    preemptions: IntArray  # (N,) evictions; who ran when an engine failed is not among them
    recompute_tokens: IntArray  # (N,) prefilled again, net of prefix-cache hits
    wasted_flops: FloatArray  # (N,) FLOPs of those tokens
    steps: int
    busy_s: float  # Σ step durations
    makespan_s: float  # last finish
    recompute_s: float  # step time that recompute added
    flops: float  # all FLOPs executed
    timeline: FloatArray  # (M, 4) time [s], blocks in use, running, waiting
    preempted_at: FloatArray  # (E, 2) time [s], request index
    plans: dict[str, int] = field(default_factory=dict)  # who decided: program, greedy, local, native, stale
    near_end_preemptions: int = 0  # of requests that had given 80 % of their output
    cached_tokens: int = 0  # found in the prefix cache when requests were admitted
    looked_up_tokens: int = 0  # of prompts, when requests were admitted for the first time
    cached_prompt_tokens: int = 0  # found in the prefix cache of those
    computed_tokens: int = 0  # prefilled or decoded, recomputation included
    lost_requests: int = 0  # that ran when an engine failed
    lost_tokens: int = 0  # computed tokens whose KV they held
    wall_s: float = 0.0  # on a wall clock; kept out of everything that must repeat
