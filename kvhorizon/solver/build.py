"""From a snapshot to the program's arrays, in time that hardly depends on how many requests wait.

Expected blocks are those of `horizon`. The chance constraint mean + z·√V ≤ pool is replaced by its tangent at V0, which
lies above it: P = mean + z·Var/(2√V0), M = pool − z·√V0/2. Any V0 > 0 and any buckets make a valid program, so both are
kept while they fit roughly: then rows of waiting requests (`arena`) stay right from plan to plan.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.resolve import resolve_curves
from kvhorizon.models.survival import Curves
from kvhorizon.solver.arena import Arena
from kvhorizon.solver.costs import (
    Outlook,
    delay_costs,
    evictable,
    eviction_losses,
    outlook_of,
    overflow_price,
    read_costs,
)
from kvhorizon.solver.horizon import (
    Traits,
    admission_buckets,
    bucket_edges,
    full_pool_variance,
    grid_of,
    hold_now,
)
from kvhorizon.solver.problem import NOBODY, Problem, Tables, Turned
from kvhorizon.solver.settings import Settings
from kvhorizon.state import Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
HORIZON_DRIFT = 1.25  # the horizon may differ by this factor from what it should be
SPREAD_DRIFT = 2.0  # and V0 by this one: a slack of at most z·√V·(√2 + √½ − 2)/2, 6 % of the margin for the spread


class Held(NamedTuple):
    """What some requests hold if they run from now on, (n, K) each."""

    mean: FloatArray
    variance: FloatArray
    sequences: FloatArray


def build(snapshot: Snapshot, settings: Settings, curves: Curves | None = None) -> Problem:
    """The program of one snapshot; `curves` are its resolved forecasts, where the caller has them already."""
    return Builder(settings).build(snapshot, curves)


class Builder:
    """Builds the programs of one engine, one after the other; what is computed once is kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._arena: Arena | None = None
        self._horizon_steps = 0.0
        self._spread = np.zeros(0)  # (K,) √V0
        self._offered: tuple[FloatArray, FloatArray] | None = None  # what the last queue would hold; None: not known
        self._made_for: tuple[object, ...] = ()

    def build(self, snapshot: Snapshot, curves: Curves | None = None) -> Problem:
        """The program of `snapshot`, in rows that stay where they are from one to the next."""
        settings, requests, running = self._settings, snapshot.requests, snapshot.num_running
        curves = resolve_curves(snapshot) if curves is None else curves
        outlook = outlook_of(snapshot, curves, settings)
        waiting = considered(snapshot, outlook, settings)
        arena = self._frame(snapshot, outlook, waiting)
        traits = Traits(outlook.context, requests.generated_tokens, requests.output_limit_tokens)
        block_size, pool = snapshot.facts.block_size, foreseen_pool(snapshot, settings)
        held = held_now(curves, traits, np.arange(running), arena, block_size)
        held.mean[:, 0] = np.maximum(held.mean[:, 0], requests.blocks_held[:running])
        if self._offered is None:
            some = held_now(curves, traits, waiting, arena, block_size)
            self._offered = some.mean.sum(axis=0), some.variance.sum(axis=0)
        self._spreading(held, self._offered, pool)
        spread_price = settings.z / (2.0 * self._spread)
        loss = eviction_losses(snapshot, outlook, settings)
        may_leave = evictable(snapshot, outlook, settings)  # (R,)
        leaving = np.flatnonzero(may_leave)
        slot, stale = arena.place(requests.handle[waiting], depends_on(snapshot, waiting))
        arena.write(slot[stale], waiting[stale], curves, traits, block_size, spread_price)
        arena.write(np.arange(len(leaving)), leaving, curves, traits, block_size, spread_price)
        self._offered = arena.offered()
        running_blocks = held.mean + spread_price * held.variance
        arena.keep_now(np.arange(len(leaving)), running_blocks[leaving])
        rows = np.concatenate([leaving, waiting])
        slot = np.concatenate([np.arange(len(leaving)), slot])
        edges, bucket = arena.grid.edges, arena.grid.bucket
        cost, never = delay_costs(snapshot, outlook.weight[rows], loss[leaving], edges, bucket, settings)
        reads = settings.read_price * read_costs(snapshot, arena.rows.block_steps[slot], arena.rows.alive_steps[slot])
        prefill, budget = prefill_needs(snapshot, rows, len(leaving), edges[bucket], edges[-1])
        size = arena.size
        tables = Tables(
            cost=spread_out(cost + reads, slot, size, np.inf),
            cost_never=spread_out(never + reads[:, 0], slot, size),  # the same work, only later
            blocks=arena.rows.blocks[:size],
            sequences=arena.rows.sequences[:size],
            prefill_tokens=spread_out(prefill, slot, size),
            held_blocks=spread_out(held_blocks(snapshot, rows), slot, size),
            capacity_blocks=pool
            + shared_blocks(snapshot) * held.sequences.sum(axis=0) / max(running, 1)
            - settings.z * self._spread / 2.0
            - running_blocks[~may_leave].sum(axis=0),
            max_sequences=max(snapshot.facts.max_num_seqs, running) - held.sequences[~may_leave].sum(axis=0),
            prefill_budget_tokens=budget,
            present_blocks=np.array([snapshot.free_blocks + requests.blocks_held[leaving].sum()], np.float64),
            overflow_price=np.full(
                settings.buckets,
                settings.price_factor * overflow_price(snapshot, np.arange(running) if running else rows),
            ),
            admission_bucket=bucket,
        )
        return Problem(
            tables,
            edges,
            arena.reserved,
            spread_out(rows, slot, size, NOBODY),
            spread_out(requests.handle[rows], slot, size),
            spread_out(outlook.key[rows], slot, size, np.inf),
            loss,
            running_blocks,
            Turned(arena.rows.blocks_by_option, arena.rows.sequences_by_option),
        )

    def _frame(self, snapshot: Snapshot, outlook: Outlook, waiting: IntArray) -> Arena:
        """The rows as they are, or empty ones where the horizon, the engine or its forecasts have changed."""
        settings, remaining = self._settings, outlook.remaining
        total = remaining[: snapshot.num_running].sum() + remaining[waiting].sum()
        facts, gained = snapshot.facts, snapshot.habits.tokens_per_step
        steps = settings.horizon_outputs * float(total) / (gained * max(snapshot.num_running + len(waiting), 1))
        steps = max(steps, 1.0)
        made_for = (facts, snapshot.curves_version, gained)
        drift = max(steps / max(self._horizon_steps, 1e-9), self._horizon_steps / steps)
        if self._arena is not None and drift <= HORIZON_DRIFT and made_for == self._made_for:
            return self._arena
        grid = grid_of(bucket_edges(steps, settings), admission_buckets(settings), gained, facts.window_tokens)
        reserved = min(settings.max_evictions, facts.max_num_seqs)
        if self._arena is None or self._arena.reserved != reserved:
            self._arena = Arena(reserved, grid)
        self._arena.regrid(grid)
        self._horizon_steps, self._spread, self._made_for = steps, np.zeros(settings.buckets), made_for
        self._offered = None
        return self._arena

    def _spreading(self, running: Held, offered: tuple[FloatArray, FloatArray], pool: float) -> None:
        """Choose V0 anew where the present one is too far from the variance of a full pool."""
        wanted = full_pool_variance((running.mean.sum(axis=0), running.variance.sum(axis=0)), offered, pool)
        now = np.maximum(self._spread**2, 1e-9)
        if max((wanted / now).max(), (now / wanted).max()) > SPREAD_DRIFT:
            self._spread = np.sqrt(wanted)
            assert self._arena is not None
            self._arena.forget()


def spread_out(values: NDArray[Any], slot: IntArray, size: int, empty: float = 0) -> NDArray[Any]:
    """`values` (n, …) at their slots (n,) of `size`, `empty` elsewhere."""
    out = np.full((size, *values.shape[1:]), empty, values.dtype)
    out[slot] = values
    return out


def held_now(curves: Curves, traits: Traits, rows: IntArray, arena: Arena, block_size: int) -> Held:
    """What the requests `rows` hold if they run from now on."""
    shape = (len(rows), len(arena.grid.edges) - 1)
    held = Held(np.empty(shape), np.empty(shape), np.empty(shape))
    hold_now(curves, traits, rows, arena.grid, float(block_size), *held)
    return held


def depends_on(snapshot: Snapshot, rows: IntArray) -> FloatArray:
    """(n, T) What the row of a waiting request depends on, beside buckets and curve tables."""
    requests = snapshot.requests
    columns = (
        requests.prompt_tokens,
        requests.generated_tokens,
        requests.output_limit_tokens,
        requests.forecast_kind,
        requests.forecast_scale,
        requests.forecast_log_sigma,
        requests.forecast_curve,
    )
    return np.column_stack([column[rows] for column in columns]).astype(np.float64)


def considered(snapshot: Snapshot, outlook: Outlook, settings: Settings) -> IntArray:
    """(w,) The waiting requests of least key, and the oldest of the others; all of them where they are few enough."""
    waiting = np.arange(snapshot.num_running, len(outlook.key))
    if len(waiting) <= settings.candidates:
        return waiting
    order = np.argsort(outlook.key[waiting], kind="stable")
    best, left = waiting[order[: settings.candidates]], waiting[order[settings.candidates :]]
    oldest = left[np.argsort(snapshot.requests.arrival_s[left], kind="stable")[: settings.oldest]]
    return np.concatenate([best, oldest])


def foreseen_pool(snapshot: Snapshot, settings: Settings) -> float:
    """Blocks that the program may plan for: the pool less the reserve and less what no running request holds."""
    total = snapshot.facts.total_blocks
    return total * (1.0 - settings.reserve_share) - max(-_counted_twice(snapshot), 0)


def shared_blocks(snapshot: Snapshot) -> int:
    """Blocks that running requests hold together, beyond the one time that each of them is there."""
    return max(_counted_twice(snapshot), 0)


def _counted_twice(snapshot: Snapshot) -> int:
    """What the running requests hold, one by one, less what is in use; below 0: others hold blocks, too."""
    ours = int(snapshot.requests.blocks_held[: snapshot.num_running].sum())
    return ours - (snapshot.facts.total_blocks - snapshot.free_blocks)


def held_blocks(snapshot: Snapshot, rows: IntArray) -> FloatArray:
    """(n,) Blocks that each request holds if it runs now: those it has, or those that its context needs."""
    requests = snapshot.requests
    context = requests.prompt_tokens[rows] + requests.generated_tokens[rows]
    if snapshot.facts.window_tokens:
        context = np.minimum(context, snapshot.facts.window_tokens)
    runs = rows < snapshot.num_running
    return np.where(runs, requests.blocks_held[rows], -(-context // snapshot.facts.block_size)).astype(np.float64)


def prefill_needs(
    snapshot: Snapshot, rows: IntArray, leaving: int, point_steps: FloatArray, end_steps: float
) -> tuple[FloatArray, FloatArray]:
    """Tokens (n, A) to prefill per option of `rows`, and the budget (A,) of each point until the next.

    A prompt longer than the whole budget counts as that budget, since the engine spreads it over later steps. Prefills
    in flight come first; keeping one of the first `leaving` rows, which run, asks for no more.
    """
    requests, running = snapshot.requests, snapshot.num_running
    step_tokens = float(snapshot.facts.max_num_batched_tokens)
    context = requests.prompt_tokens + requests.generated_tokens
    budget = step_tokens * np.maximum(np.diff(np.append(point_steps, end_steps)), 1.0)
    in_flight = np.maximum(context[:running] - requests.computed_tokens[:running] - 1, 0).sum()
    budget[0] = max(budget[0] - float(in_flight), step_tokens)
    tokens = np.maximum(context - requests.cached_tokens, 0)[rows].astype(np.float64)
    needs = np.minimum(tokens[:, None], budget[None, :])
    needs[:leaving, 0] = 0.0
    return needs, budget
