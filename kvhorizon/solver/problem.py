"""The rolling-horizon program as arrays: requests × options × buckets.

Time ahead is cut into K buckets at T_0 = 0 < T_1 < … < T_K steps. A request n picks one option: to hold its memory from
admission point a on (point 0 is now; point a lies at the start t_a of bucket k_a), or not within the horizon (∅). For a
running request point 0 keeps it; a later one evicts it now and resumes it then.

    min  Σ_n c_n∅ + Σ_{n,a} (c_na − c_n∅)·x_na + Σ_k π_k·v_k              [weighted seconds of delay]
    s.t. Σ_a x_na ≤ 1                                 each request n
         Σ_{n,a} P_nak·x_na − v_k ≤ M_k   [blocks]    each bucket k,  v_k ≥ 0
         Σ_{n,a} Q_nak·x_na ≤ N_k         [sequences] each bucket k
         Σ_n prefill_na·x_na ≤ budget_a   [tokens]    each admission point a
         Σ_n held_n·x_n0 ≤ present        [blocks]    what is held at the start of the next step exists

Overflow of a forecast bucket costs π_k per block, what evicting a block costs; the other constraints are hard.
Expected blocks are the largest of S(t − t_a)·⌈(c + t − t_a) / block⌉ over sample times t of bucket k, with S the
survival of the remaining output and c the context. The chance constraint mean + z·√V ≤ pool is replaced by its tangent
at V0, which lies above it: P = mean + z·Var/(2√V0), M = pool − z·√V0/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.resolve import resolve_curves
from kvhorizon.models.survival import Curves
from kvhorizon.solver.costs import (
    Outlook,
    delay_costs,
    evictable,
    eviction_losses,
    outlook_of,
    overflow_price,
    read_costs,
)
from kvhorizon.solver.horizon import admission_buckets, bucket_edges, expected_holdings, full_pool_variance
from kvhorizon.solver.settings import Settings
from kvhorizon.state import HandleArray, Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NEVER = -1  # in a choice: not within the horizon


class Tables(NamedTuple):
    """The program's numbers, as compiled code takes them: N requests, running ones first, A points, K buckets."""

    cost: FloatArray  # (N, A) c_na, weighted seconds; inf where the option does not exist
    cost_never: FloatArray  # (N,) c_n∅; inf where the request must hold memory
    blocks: FloatArray  # (N, A, K) P_nak, chance-adjusted; 0 for k < k_a
    sequences: FloatArray  # (N, A, K) Q_nak, expected
    prefill_tokens: FloatArray  # (N, A)
    held_blocks: FloatArray  # (N,) taken at once by option 0
    capacity_blocks: FloatArray  # (K,) M_k
    max_sequences: FloatArray  # (K,) N_k
    prefill_budget_tokens: FloatArray  # (A,)
    present_blocks: FloatArray  # (1,) held by running requests or free
    overflow_price: FloatArray  # (K,) π_k, weighted seconds per block
    admission_bucket: IntArray  # (A,) k_a, ascending from 0


@dataclass(frozen=True, slots=True)
class Problem:
    """`Tables`, and what ties them to the snapshot."""

    tables: Tables
    bucket_steps: FloatArray  # (K + 1,) T_k
    num_running: int
    rows: IntArray  # (N,) index of each request in the snapshot
    handle: HandleArray  # (N,)
    key: FloatArray  # (N,) the greedy's order, least first
    eviction_loss: FloatArray  # (R,) weighted seconds that evicting each running request costs, its own delay apart

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, A, K)."""
        n, a, k = self.tables.blocks.shape
        return n, a, k

    @property
    def point_steps(self) -> FloatArray:
        """(A,) steps until each admission point."""
        return self.bucket_steps[self.tables.admission_bucket]


def build(snapshot: Snapshot, settings: Settings, curves: Curves | None = None) -> Problem:
    """The program of a snapshot; `curves` are its resolved forecasts, where the caller has them already."""
    curves = resolve_curves(snapshot) if curves is None else curves
    outlook = outlook_of(snapshot, curves, settings)
    rows = considered(snapshot, outlook, settings)
    edges = bucket_edges(
        settings.horizon_outputs * float(outlook.remaining[rows].mean()) if len(rows) else 1.0, settings
    )
    bucket = admission_buckets(settings)
    evict = evictable(snapshot, outlook, settings)  # (R,)
    mean, variance, sequences = expected_holdings(snapshot, rows, curves, edges, bucket, evict)
    facts, running = snapshot.facts, snapshot.num_running
    pool = foreseen_pool(snapshot, settings)
    spread = np.sqrt(full_pool_variance(mean[:, 0], variance[:, 0], running, pool))  # (K,) √V0
    prefill, budget = prefill_needs(snapshot, rows, edges[bucket], edges[-1])
    loss = eviction_losses(snapshot, outlook, settings)
    cost, never = delay_costs(snapshot, outlook.weight[rows], np.where(evict, loss, np.inf), edges, bucket, settings)
    reads = settings.read_price * read_costs(snapshot, mean, sequences, edges)  # (N, A)
    tables = Tables(
        cost=cost + reads,
        cost_never=never + reads[:, 0],  # the same work, only later
        blocks=mean + settings.z * variance / (2.0 * spread),
        sequences=sequences,
        prefill_tokens=prefill,
        held_blocks=held_blocks(snapshot, rows),
        capacity_blocks=pool - settings.z * spread / 2.0,
        max_sequences=np.full(settings.buckets, float(max(facts.max_num_seqs, running))),
        prefill_budget_tokens=budget,
        present_blocks=np.array([snapshot.free_blocks + snapshot.requests.blocks_held[:running].sum()], np.float64),
        overflow_price=np.full(settings.buckets, settings.price_factor * overflow_price(snapshot, rows)),
        admission_bucket=bucket,
    )
    return Problem(tables, edges, running, rows, snapshot.requests.handle[rows], outlook.key[rows], loss)


def considered(snapshot: Snapshot, outlook: Outlook, settings: Settings) -> IntArray:
    """(N,) All running requests, then the waiting ones of least key, then the oldest of the others."""
    waiting = np.arange(snapshot.num_running, len(outlook.key))
    order = np.argsort(outlook.key[waiting], kind="stable")
    best, left = waiting[order[: settings.candidates]], waiting[order[settings.candidates :]]
    oldest = left[np.argsort(snapshot.requests.arrival_s[left], kind="stable")[: settings.oldest]]
    return np.concatenate([np.arange(snapshot.num_running), best, oldest]).astype(np.int64)


def foreseen_pool(snapshot: Snapshot, settings: Settings) -> float:
    """Blocks that the program may plan for: the pool less the reserve and less what no running request holds."""
    total = snapshot.facts.total_blocks
    ours = int(snapshot.requests.blocks_held[: snapshot.num_running].sum())  # shared prefixes may count twice
    foreign = max(total - snapshot.free_blocks - ours, 0)
    return total * (1.0 - settings.reserve_share) - foreign


def held_blocks(snapshot: Snapshot, rows: IntArray) -> FloatArray:
    """(N,) Blocks that each request holds if it runs now: those it has, or those that its context needs."""
    requests, running = snapshot.requests, snapshot.num_running
    context = requests.prompt_tokens[rows] + requests.generated_tokens[rows]
    held = -(-context // snapshot.facts.block_size)
    held[:running] = requests.blocks_held[:running]
    return held.astype(np.float64)


def prefill_needs(
    snapshot: Snapshot, rows: IntArray, point_steps: FloatArray, end_steps: float
) -> tuple[FloatArray, FloatArray]:
    """Tokens (N, A) to prefill per option, and the budget (A,) of each point until the next.

    A prompt longer than the whole budget counts as that budget, since the engine spreads it over later steps. Prefills
    in flight come first; keeping a running request asks for no more.
    """
    requests, running = snapshot.requests, snapshot.num_running
    step_tokens = float(snapshot.facts.max_num_batched_tokens)
    context = requests.prompt_tokens + requests.generated_tokens
    budget = step_tokens * np.maximum(np.diff(np.append(point_steps, end_steps)), 1.0)
    in_flight = np.maximum(context[:running] - requests.computed_tokens[:running] - 1, 0).sum()
    budget[0] = max(budget[0] - float(in_flight), step_tokens)
    tokens = np.maximum(context - requests.cached_tokens, 0)[rows].astype(np.float64)
    needs = np.minimum(tokens[:, None], budget[None, :])
    needs[:running, 0] = 0.0
    return needs, budget
