"""The columns that the greedy's compiled rules read: one layout for simulator, snapshot and live engine."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
FloatArray = NDArray[np.float64]


class Columns(NamedTuple):
    """(N,) each. A smaller index need not be an older request; `arrival_s` says."""

    arrival_s: FloatArray
    prompt: Int32Array  # tokens
    generated: Int32Array  # output tokens so far; kept over a preemption
    computed: Int32Array  # tokens whose KV is present
    blocks: Int32Array  # KV blocks held
    limit: Int32Array  # output tokens never exceeded
    preemptions: Int32Array
    out_of_order: NDArray[np.uint8]  # 1: admitted before an older waiting request
    remaining: FloatArray  # predicted output to come, for waiting requests [tokens]
    weight: FloatArray  # importance of its delay, > 0, 1 by default
    shared: Int32Array  # tokens of its prefix in blocks that other requests hold: they cost it no memory
    idle: Int32Array  # tokens of its prefix that follow, cached in free blocks: they cost memory, but no prefill
    turn: FloatArray  # tokens admitted by when it would be its turn in order of arrival; below 0: not known yet


class Room(NamedTuple):
    """What the engine has left for admissions in this step, after the running requests took theirs."""

    free_blocks: int
    owed_blocks: int  # blocks that prefills in flight will still take
    total_blocks: int
    block_size: int  # tokens
    seats: int  # sequences that may still join
    token_budget: int
    now_s: float
    late_after_s: float  # a request is late once it has waited so long, inf: never
    used_blocks: int  # that are in use now
    step_s: float  # how long a step takes at the moment
    prefill_s_per_token: float  # by how much a token of prefill lengthens it
    returning_tokens: float = 0.0  # KV of sessions between two turns that is expected to be used again
