"""The rolling-horizon program as arrays: requests × options × buckets.

Time ahead is cut into K buckets, T_0 = 0 < T_1 < … < T_K steps, of geometrically growing width. A request n picks one
option: to hold its memory from admission point a on (a = 0 is now; the point lies at T_a), or not within the horizon.

    min  Σ_n c_n∅ + Σ_{n,a} (c_na − c_n∅)·x_na + Σ_k π_k·v_k          [weighted seconds of delay]
    s.t. Σ_a x_na ≤ 1                                 each request n
         Σ_{n,a} P_nak·x_na − v_k ≤ M_k   [blocks]    each bucket k,  v_k ≥ 0
         Σ_{n,a} Q_nak·x_na ≤ N_max       [sequences] each bucket k
         Σ_n prefill_na·x_na ≤ budget_a   [tokens]    each admission point a

For a running request a = 0 keeps it, a ≥ 1 evicts it now and resumes it at T_a. Expected blocks are the largest of
S(t − T_a)·⌈(c + t − T_a) / block⌉ over sample times t of bucket k, with S the survival of its remaining output. The
chance constraint mean + z·√V ≤ pool is made linear by its tangent at V0: P + z·Var/(2√V0) ≤ M − z·√V0/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvhorizon.models.step_time import recompute_seconds
from kvhorizon.models.survival import Curves, mean_remaining, survive
from kvhorizon.solver.greedy import kv_time
from kvhorizon.state import Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NEVER = -1
SAMPLES = (0.0, 0.5, 1.0)  # where in a bucket the blocks are looked at


@dataclass(frozen=True, slots=True)
class Settings:
    """Parameters of the program's model."""

    buckets: int = 12
    points: int = 8  # admission points
    horizon_outputs: float = 2.0  # horizon over the mean predicted output
    z: float = 1.645  # one-sided confidence of the memory constraint
    reserve_share: float = 0.02  # of the pool, never planned for
    candidates: int = 96  # waiting requests considered, by least KV·time over weight
    oldest: int = 16  # and these in any case
    aging_s: float = 2.0
    aging_share: float = 0.2  # seconds per token of predicted output
    postponed: float = 0.5  # surcharge on delay for not starting now
    never: float = 1.5  # delay of "not within the horizon", in horizons
    progress: float = 1.0  # surcharge on evicting, times the share of output already done
    evict_occupancy: float = 0.96  # below it no running request is given up
    reserve_unplanned_share: float = 0.05


@dataclass(frozen=True, slots=True)
class Problem:
    """N requests, running ones first; A points, K buckets."""

    cost: FloatArray  # (N, A) weighted seconds; inf where the option does not exist
    cost_never: FloatArray  # (N,)
    blocks: FloatArray  # (N, A, K) chance-adjusted expected blocks, 0 for k < a
    sequences: FloatArray  # (N, A, K) expected sequences
    prefill_tokens: FloatArray  # (N, A)
    capacity_blocks: FloatArray  # (K,)
    max_sequences: float
    prefill_budget_tokens: FloatArray  # (A,)
    overflow_price: FloatArray  # (K,) weighted seconds per block
    bucket_steps: FloatArray  # (K + 1,) T_k
    num_running: int
    rows: IntArray  # (N,) index of each request in the snapshot
    key: FloatArray  # (N,) the greedy's order, least first

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, A, K)."""
        n, a, k = self.blocks.shape
        return n, a, k


def bucket_edges(horizon_steps: float, buckets: int) -> FloatArray:
    """T_0 … T_K (K + 1,), T_k = u·(2^k − 1), with u so that T_K reaches the horizon; at least a step each."""
    powers = 2.0 ** np.arange(buckets + 1) - 1.0
    unit = max(horizon_steps / powers[-1], 1.0)
    edges: FloatArray = unit * powers
    return edges


def build(snapshot: Snapshot, curves: Curves, settings: Settings) -> Problem:
    """The program of a snapshot; `curves` gives the forecast of each of its requests."""
    requests, facts = snapshot.requests, snapshot.facts
    remaining = _remaining(requests.generated_tokens, requests.output_limit_tokens, curves)
    context = requests.prompt_tokens + requests.generated_tokens
    age_s = np.maximum(snapshot.now_s - requests.arrival_s, 0.0)
    weight = requests.weight * (
        1.0 + age_s / (settings.aging_s + settings.aging_share * (requests.generated_tokens + remaining))
    )
    key: FloatArray = np.asarray(kv_time(context, remaining)) / weight
    rows = _considered(snapshot, key, settings)
    edges = bucket_edges(
        settings.horizon_outputs * float(remaining[rows].mean()) if len(rows) else 1.0, settings.buckets
    )
    size, running = len(rows), snapshot.num_running
    blocks = np.zeros((size, settings.points, settings.buckets))
    variance, sequences = np.zeros_like(blocks), np.zeros_like(blocks)
    _profiles(
        rows, context, requests.generated_tokens, requests.output_limit_tokens, curves, edges, facts.block_size,
        blocks, variance, sequences,
    )  # fmt: skip
    spread = np.sqrt(np.maximum(1.3 * variance[:running, 0].sum(axis=0), 1.0))  # (K,) √V0
    _hold_what_is_held(blocks, requests.blocks_held, running)
    prefill, budget = _prefill(snapshot, rows, context, edges, settings.points)
    cost, cost_never = _costs(snapshot, rows, weight, context, remaining, edges, settings)
    return Problem(
        cost=cost,
        cost_never=cost_never,
        blocks=blocks + settings.z * variance / (2.0 * spread),
        sequences=sequences,
        prefill_tokens=prefill,
        capacity_blocks=facts.total_blocks * (1.0 - settings.reserve_share) - settings.z * spread / 2.0,
        max_sequences=float(facts.max_num_seqs),
        prefill_budget_tokens=budget,
        overflow_price=np.full(settings.buckets, _overflow_price(snapshot, context)),
        bucket_steps=edges,
        num_running=running,
        rows=rows,
        key=key[rows],
    )


def _remaining(generated: IntArray, limit: IntArray, curves: Curves) -> FloatArray:
    out = np.empty(len(generated))
    _fill_remaining(generated, limit, curves, out)
    return out


@njit(cache=True)
def _fill_remaining(generated, limit, curves, out):  # type: ignore[no-untyped-def]
    for n in range(len(out)):
        out[n] = mean_remaining(curves, n, generated[n], limit[n])


def _considered(snapshot: Snapshot, key: FloatArray, settings: Settings) -> IntArray:
    """All running requests, then the waiting ones of least key, then the oldest."""
    waiting = np.arange(snapshot.num_running, len(key))
    best = waiting[np.argsort(key[waiting], kind="stable")[: settings.candidates]]
    left = np.setdiff1d(waiting, best)
    oldest = left[np.argsort(snapshot.requests.arrival_s[left], kind="stable")[: settings.oldest]]
    return np.concatenate([np.arange(snapshot.num_running), best, oldest]).astype(np.int64)


@njit(cache=True)
def _profiles(rows, context, generated, limit, curves, edges, block_size, blocks, variance, sequences):  # type: ignore[no-untyped-def]
    """Expected blocks, their variance and expected sequences of every option, (N, A, K) each."""
    size, points, buckets = blocks.shape
    for i in range(size):
        n = rows[i]
        for a in range(points):
            for k in range(a, buckets):
                for share in SAMPLES:
                    h = edges[k] + share * (edges[k + 1] - edges[k]) - edges[a]
                    alive = survive(curves, n, generated[n], h, limit[n])
                    held = math.ceil((context[n] + h) / block_size)
                    blocks[i, a, k] = max(blocks[i, a, k], alive * held)
                    variance[i, a, k] = max(variance[i, a, k], alive * (1.0 - alive) * held * held)
                    if share == 0.0:
                        sequences[i, a, k] = alive


def _hold_what_is_held(blocks: FloatArray, held: IntArray, running: int) -> None:
    """A running request that stays holds at least its present blocks in the first bucket."""
    blocks[:running, 0, 0] = np.maximum(blocks[:running, 0, 0], held[:running])


def _prefill(
    snapshot: Snapshot, rows: IntArray, context: IntArray, edges: FloatArray, points: int
) -> tuple[FloatArray, FloatArray]:
    """Tokens (N, A) to prefill per option, and the budget (A,) of each admission point.

    A prompt longer than its point's whole budget counts as that budget: the engine spreads it over later steps.
    Prefills already in flight shorten the first point's budget; keeping a running request asks for no more.
    """
    requests = snapshot.requests
    budget = snapshot.facts.max_num_batched_tokens * np.maximum(np.diff(edges)[:points], 1.0)
    cold = np.maximum(context - requests.cached_tokens, 0)[rows].astype(np.float64)
    tokens = np.minimum(cold[:, None], budget[None, :])
    running = slice(0, snapshot.num_running)
    tokens[running, 0] = 0.0
    in_flight = np.maximum(context[running] - requests.computed_tokens[running] - 1, 0).sum()
    budget[0] = max(budget[0] - float(in_flight), 0.0)
    return tokens, budget


def recompute_cost_s(snapshot: Snapshot, context: IntArray) -> FloatArray:
    """Seconds (N,) that evicting each request costs the batch: recompute and half a step, times those delayed."""
    cost = snapshot.facts.cost
    alone = np.array([recompute_seconds(cost, 0, float(c)) for c in context])
    stalled: FloatArray = (alone + 0.5 * (cost.fixed_s + cost.weights_s)) * max(snapshot.num_running, 1)
    return stalled


def _overflow_price(snapshot: Snapshot, context: IntArray) -> float:
    """Weighted seconds per block beyond the pool: what evicting one block of an average running request costs."""
    running = slice(0, snapshot.num_running)
    if snapshot.num_running == 0:
        return 1.0
    return float(
        recompute_cost_s(snapshot, context[running]).sum() / max(snapshot.requests.blocks_held[running].sum(), 1)
    )


def _costs(
    snapshot: Snapshot, rows: IntArray, weight: FloatArray, context: IntArray, remaining: FloatArray, edges: FloatArray,
    settings: Settings,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Weighted seconds of delay (N, A) per option and (N,) for none within the horizon; age so far is sunk."""
    start_s = edges[: settings.points] * snapshot.step_s
    late = np.where(start_s > 0.0, 1.0 + settings.postponed, 1.0)
    cost = weight[rows][:, None] * (start_s * late)[None, :]
    never = weight[rows] * settings.never * edges[-1] * snapshot.step_s
    running = slice(0, snapshot.num_running)
    generated = snapshot.requests.generated_tokens[running]
    done = generated / np.maximum(generated + remaining[running], 1.0)
    loss = recompute_cost_s(snapshot, context[running]) * (1.0 + settings.progress * done)
    loss *= 1.0 + snapshot.requests.preemptions[running]
    used = snapshot.facts.total_blocks - snapshot.free_blocks
    if used < settings.evict_occupancy * snapshot.facts.total_blocks:
        loss[:] = np.inf
    cost[running, 1:] += loss[:, None]
    never[running] += loss
    return cost, never
