"""What the engine tells the planner (`Snapshot`) and what it gets back (`Plan`).

Columns are packed numpy arrays, one entry per request; nothing here computes, reads a clock or knows a
transport. The wire form is `proto/kvhorizon/v1/scheduler.proto`, converted without loss by `wire.convert`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONTRACT_VERSION = 1

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
HandleArray = NDArray[np.uint64]
ByteArray = NDArray[np.uint8]


class ForecastKind(enum.IntEnum):
    """How the forecast of one request is given (`Requests.forecast_kind`)."""

    NONE = 0
    POINT = 1  # `forecast_scale` = median of total output [tokens], `forecast_log_sigma` = spread; 0 is exact
    CURVE = 2  # `forecast_curve` = row of `Snapshot.curves`, `forecast_scale` = its unit [tokens]


class Source(enum.IntEnum):
    """Who decided."""

    PROGRAM = 1  # the rolling-horizon integer program
    GREEDY = 2  # the greedy heuristic, in the service, because the budget ended first
    LOCAL = 3  # the greedy heuristic, beside the engine, because no usable plan was at hand
    NATIVE = 4  # the engine's own rule


class StepCost(NamedTuple):
    """Seconds and FLOPs of engine work; see `models.performance.step_time` and `models.performance.flops` for the
    formulas.

    A named tuple, because compiled code takes it as an argument.
    """

    fixed_s: float  # of any step, beyond weights
    weights_s: float  # reading the dense weights once
    expert_weights_s: float = 0.0  # reading all expert weights once (mixture of experts)
    experts_per_token: float = 0.0  # share of the experts that one token touches, in [0, 1]
    linear_s_per_token: float = 0.0  # compute-bound linear layers
    smooth: float = 2.0  # p-norm that joins the memory and compute bounds, >= 1
    attention_s_per_pair: float = 0.0  # per (query token, context token) pair of prefill
    kv_read_s_per_token: float = 0.0  # per KV token read by decodes
    sequence_s: float = 0.0  # per running sequence
    flops_per_token: float = 0.0  # linear layers
    flops_per_pair: float = 0.0  # attention, per (query token, context token) pair


class Habits(NamedTuple):
    """What an engine was seen to do; moves slowly. The defaults are those of an engine of which nothing is known."""

    tokens_per_step: float = 1.0  # that a decode gains per step, γ > 0: more by speculative decoding
    kept_share: float = 0.0  # of an evicted context's tokens, those that its resume need not compute again, in [0, 1]
    reload_s_per_token: float = 0.0  # to bring one of these back


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What does not change while an engine runs."""

    total_blocks: int
    block_size: int  # tokens per block
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    cost: StepCost
    engine_id: str = "engine"
    engine_epoch: int = 0
    contract_version: int = CONTRACT_VERSION
    window_tokens: int = 0  # tokens whose KV a request holds at most, where every layer has a window; 0: no bound


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns over all live requests: first the running ones in engine order, then the waiting in queue order.

    All arrays are (N,). Units: tokens, blocks, seconds on the engine's clock.
    """

    handle: HandleArray
    arrival_s: FloatArray
    prompt_tokens: IntArray
    generated_tokens: IntArray  # output so far; kept over a preemption
    computed_tokens: IntArray  # KV present; 0 after a preemption
    blocks_held: IntArray
    output_limit_tokens: IntArray  # output never exceeds it (max_tokens, context limit)
    preemptions: IntArray
    cached_tokens: IntArray  # waiting: prefix that a prefill now would find in the cache
    shared_tokens: IntArray  # prefix in blocks that other requests hold; of those that wait, part of `cached_tokens`
    weight: FloatArray  # importance of its delay, 1 by default
    out_of_order: ByteArray  # 1: admitted before an older waiting request
    forecast_kind: ByteArray
    forecast_scale: FloatArray
    forecast_log_sigma: FloatArray
    forecast_curve: IntArray

    def __len__(self) -> int:
        return len(self.handle)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine at one moment. `requests[:num_running]` run, the rest wait."""

    facts: EngineFacts
    revision: int
    now_s: float
    free_blocks: int
    step_s: float  # recent mean duration of a step
    num_running: int
    requests: Requests
    curves: FloatArray = field(
        default_factory=lambda: np.empty((0, 0))
    )  # (C, G) survival on `models.forecast.survival` grid
    curves_version: int = 0
    habits: Habits = field(default_factory=Habits)


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions and prices. Handles are those of the snapshot that it is based on."""

    engine_epoch: int
    based_on_revision: int
    source: Source
    admissions: HandleArray  # (a,) waiting requests in the order in which to admit them
    admit_at_steps: FloatArray  # (a,) planned admission point, steps after the snapshot; 0 = now
    evictions: HandleArray  # (e,) running requests to evict now, gated by the engine side
    bucket_steps: FloatArray  # (K,) steps after the snapshot at which bucket k begins
    block_prices: FloatArray  # (K,) weighted seconds of delay per block held in bucket k
    objective: float = float("nan")  # weighted seconds of delay
    bound: float = float("nan")  # proven lower bound of the program's optimum
    work_units: int = 0
    solve_s: float = 0.0

    @property
    def gap(self) -> float:
        """(objective − proven bound) / bound; nan where nothing was proven."""
        return (self.objective - self.bound) / self.bound if self.bound > 0 else float("nan")
