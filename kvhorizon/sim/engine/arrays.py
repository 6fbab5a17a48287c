"""The simulator's state: arrays and named places in them, so that compiled code can carry it.

One entry per request (N), in order of arrival, so that the smaller index is the older request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.performance.measured_steps import FIRST_STEP_S
from kvhorizon.sim.engine.cache import BlockCache
from kvhorizon.solver.heuristic.columns import Columns

if TYPE_CHECKING:
    from kvhorizon.sim.engine.turns import Turns

Int8Array = NDArray[np.int8]
Int32Array = NDArray[np.int32]
FloatArray = NDArray[np.float64]
NO_REQUEST = -1

# Places in `Engine.counters` (int64).
FREE, RUNNING, WAITING, HEAD, TAIL, ARRIVED, DONE, STEPS, SAMPLES, PREEMPTED, NEAR_END, UNDER_WAY = range(12)
RESTORED, RECOMPUTED, COUNTS = range(12, 15)  # tokens of the evicted that came back, and that were computed again
# Places in `Engine.clock` (float64).
NOW, BUSY, RECOMPUTE, STEP, TOKENS, PAIRS, NEXT_SAMPLE, SAMPLE_EVERY, RELOAD, UNDER_WAY_S, CLOCKS = range(11)

# Places in `DecodeBatch.tally` (int64).
SIZE, CLOCK, SYNCED, KV, DECODE_BATCH_COUNTS = range(5)

TIMELINE_ROWS = 4096
PREEMPTION_ROWS = 32768


class Live(NamedTuple):
    """What changes per request and no rule reads, (N,) each."""

    output: Int32Array  # the truth [tokens]; read only to end a request, never to decide
    high_water: Int32Array  # tokens whose KV was present at some preemption
    recompute_tokens: Int32Array
    recompute_pairs: FloatArray  # (query, context) pairs of attention computed again
    first_token_s: FloatArray
    finish_s: FloatArray
    newer: Int32Array  # the next in the waiting queue, or NO_REQUEST
    older: Int32Array  # the previous in the waiting queue, or NO_REQUEST
    priority: Int32Array  # the smaller the sooner; empty unless the engine schedules by priority
    under_way: Int8Array  # output tokens not known yet, negative where it waits; empty unless scheduling is ahead


class Lists(NamedTuple):
    """Who runs, and scratch space."""

    running: Int32Array  # (max_num_seqs,) request indices in engine order
    scheduled: Int32Array  # (max_num_seqs,) tokens of this step
    finished: Int32Array  # (N,) in order of finish
    timeline: FloatArray  # (TIMELINE_ROWS, 4) time, blocks in use, running, waiting
    preempted_at: FloatArray  # (PREEMPTION_ROWS, 2) time, request
    under_way: Int32Array  # (max_num_seqs,) which requests the step under way gives a token; see `async_scheduling`
    sent: Int32Array  # (max_num_seqs,) the same of the step that follows it


class DecodeBatch(NamedTuple):
    """Running requests that only decode, as sums; see `decode_batch`."""

    tally: NDArray[np.int64]  # (DECODE_BATCH_COUNTS,) members, clock, when columns were up to date, KV tokens of a step
    opens: Int32Array  # (block_size,) members that open a block, by phase of the clock
    ends: Int32Array  # (ring,) members that end, by clock; longer than the longest output


class Limits(NamedTuple):
    """The engine's configuration."""

    total_blocks: int
    block_size: int  # tokens
    max_seqs: int
    max_tokens: int  # per step
    long_prefill_tokens: int  # largest chunk of one prefill, 0: no limit
    chunked: bool
    ahead: bool  # async scheduling: a step is decided while the one before it runs
    watermark_blocks: int  # kept free from admissions while anything runs
    free_recompute: bool  # a reference: recomputed tokens take neither time nor budget
    by_priority: bool  # the order of the queue, and who is preempted
    reload_s_per_token: float  # KV of the preempted comes back from host memory at this pace; 0: it is recomputed
    concurrency: int  # closed loop: so many requests are under way, the next arrives when one finishes; 0: open loop


class Engine(NamedTuple):
    """Everything compiled code needs, in one argument."""

    columns: Columns
    live: Live
    lists: Lists
    limits: Limits
    counters: NDArray[np.int64]  # (COUNTS,)
    clock: FloatArray  # (CLOCKS,)
    decode_batch: DecodeBatch
    cache: BlockCache | None  # with prefix caching; compiled apart from the engine without
    turns: Turns | None  # with prefix caching and our rule


def new_columns(
    arrival_s: FloatArray, prompt: Int32Array, limit: Int32Array, weight: FloatArray | None = None
) -> Columns:
    """Columns of requests that have not run yet; all (N,). Without weights all weigh 1."""
    n = len(arrival_s)
    return Columns(
        arrival_s=arrival_s,
        prompt=prompt,
        generated=np.zeros(n, np.int32),
        computed=np.zeros(n, np.int32),
        blocks=np.zeros(n, np.int32),
        limit=limit,
        preemptions=np.zeros(n, np.int32),
        out_of_order=np.zeros(n, np.uint8),
        remaining=np.ones(n),
        weight=np.ones(n) if weight is None else weight,
        shared=np.zeros(n, np.int32),
        idle=np.zeros(n, np.int32),
        turn=np.full(n, -1.0),
    )


def new_engine(
    columns: Columns,
    output: Int32Array,
    limits: Limits,
    cache: BlockCache | None = None,
    priority: Int32Array | None = None,
    turns: Turns | None = None,
) -> Engine:
    """An empty engine at time 0 with every request still to come, sorted by arrival."""
    n = len(output)
    live = Live(
        output=output,
        high_water=np.zeros(n, np.int32),
        recompute_tokens=np.zeros(n, np.int32),
        recompute_pairs=np.zeros(n),
        first_token_s=np.full(n, np.nan),
        finish_s=np.full(n, np.nan),
        newer=np.full(n, NO_REQUEST, np.int32),
        older=np.full(n, NO_REQUEST, np.int32),
        priority=np.zeros(n if limits.by_priority else 0, np.int32) if priority is None else priority,
        under_way=np.zeros(n if limits.ahead else 0, np.int8),
    )
    lists = Lists(
        running=np.zeros(limits.max_seqs, np.int32),
        scheduled=np.zeros(limits.max_seqs, np.int32),
        finished=np.zeros(n, np.int32),
        timeline=np.zeros((TIMELINE_ROWS, 4)),
        preempted_at=np.zeros((PREEMPTION_ROWS, 2)),
        under_way=np.zeros(limits.max_seqs, np.int32),
        sent=np.zeros(limits.max_seqs, np.int32),
    )
    count = np.zeros(COUNTS, np.int64)
    count[FREE] = limits.total_blocks
    count[HEAD] = count[TAIL] = NO_REQUEST
    clock = np.zeros(CLOCKS)
    clock[SAMPLE_EVERY] = 0.05
    clock[STEP] = FIRST_STEP_S
    ring = 1 << (int(output.max(initial=1)) + 1).bit_length()
    decode_batch = DecodeBatch(
        np.zeros(DECODE_BATCH_COUNTS, np.int64), np.zeros(limits.block_size, np.int32), np.zeros(ring, np.int32)
    )
    return Engine(columns, live, lists, limits, count, clock, decode_batch, cache, turns)
