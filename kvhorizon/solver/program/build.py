"""From a snapshot to the program's arrays, in time that hardly depends on how many requests wait.

Expected blocks are those of `occupancy`. The chance constraint mean + z·√V ≤ pool is replaced by its tangent at V0,
which lies above it: P = mean + z·Var/(2√V0), M = pool − z·√V0/2. Buckets, V0 and the rows of waiting requests are kept
from plan to plan (`time_grid`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.solver.program.costs import (
    Options,
    RequestPredictions,
    evictable,
    eviction_losses,
    option_costs,
    overflow_price,
    predictions_of,
)
from kvhorizon.solver.program.model import NO_REQUEST, Problem, Tables, Turned
from kvhorizon.solver.program.occupancy import Traits
from kvhorizon.solver.program.row_cache import Arena
from kvhorizon.solver.program.settings import Settings
from kvhorizon.solver.program.time_grid import ForecastInputs, Frame, Held, Queue
from kvhorizon.state import Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def build(snapshot: Snapshot, settings: Settings, curves: Curves | None = None) -> Problem:
    """The program of one snapshot; `curves` are its resolved forecasts, where the caller has them already."""
    return Builder(settings).build(snapshot, curves)


class Builder:
    """Builds the programs of one engine, one after the other; what is computed once is kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.frame = Frame(settings)

    def build(self, snapshot: Snapshot, curves: Curves | None = None) -> Problem:
        """The program of `snapshot`, in rows that stay where they are from one to the next."""
        settings, requests = self._settings, snapshot.requests
        curves = resolve_curves(snapshot) if curves is None else curves
        predictions = predictions_of(snapshot, curves, settings)
        waiting = considered(snapshot, predictions, settings)
        traits = Traits(predictions.context, requests.generated_tokens, requests.output_limit_tokens)
        forecast_inputs = ForecastInputs(curves, traits, snapshot.facts.block_size)
        frame, pool = self.frame, forecast_pool(snapshot, settings)
        queue = Queue(requests.handle[waiting], depends_on(snapshot, waiting), only(forecast_inputs, waiting))
        arena, slot = frame.fit(snapshot, horizon_steps(snapshot, predictions, waiting, settings), queue)
        held = self._held(snapshot, arena, forecast_inputs, pool)
        loss = eviction_losses(snapshot, predictions, settings)
        may_leave = evictable(snapshot, predictions, settings)  # (R,)
        leaving, staying = np.flatnonzero(may_leave), ~may_leave if may_leave.any() else slice(None)
        frame.write(arena, np.arange(len(leaving)), leaving, forecast_inputs)
        running_blocks = held.mean + frame.spread_price * held.variance
        arena.keep_now(np.arange(len(leaving)), running_blocks[leaving])
        rows, slot = np.concatenate([leaving, waiting]), np.concatenate([np.arange(len(leaving)), slot])
        edges, bucket = arena.grid.edges, arena.grid.bucket
        size, stored = arena.size, arena.rows
        options = Options(slot, predictions.weight[rows], loss[leaving], edges, bucket)
        cost, never = option_costs(snapshot, options, stored.block_steps[:size], stored.alive_steps[:size], settings)
        prefill, budget = prefill_needs(snapshot, rows, len(leaving), edges[bucket], edges[-1])
        tables = Tables(
            cost=cost,
            cost_never=never,
            blocks=stored.blocks[:size],
            sequences=stored.sequences[:size],
            prefill_tokens=spread_out(prefill, slot, size),
            held_blocks=spread_out(held_blocks(snapshot, rows), slot, size),
            capacity_blocks=self._capacity(snapshot, held, pool) - running_blocks[staying].sum(axis=0),
            max_sequences=max(snapshot.facts.max_num_seqs, snapshot.num_running) - held.sequences[staying].sum(axis=0),
            prefill_budget_tokens=budget,
            present_blocks=np.array([snapshot.free_blocks + own_blocks_held(snapshot, leaving).sum()], np.float64),
            overflow_price=np.full(settings.buckets, settings.price_factor * overflow_price(snapshot, rows)),
            admission_bucket=bucket,
        )
        handles = spread_out(requests.handle[rows], slot, size)
        keys = spread_out(predictions.key[rows], slot, size, np.inf)
        turned = Turned(stored.blocks_by_option, stored.sequences_by_option)
        rows = spread_out(rows, slot, size, NO_REQUEST)
        return Problem(tables, edges, arena.reserved, rows, handles, keys, loss, turned)

    def _held(self, snapshot: Snapshot, arena: Arena, forecast_inputs: ForecastInputs, pool: float) -> Held:
        """What the running requests hold if none is evicted; the chance constraint's tangent is set to it."""
        running = np.arange(snapshot.num_running)
        held = self.frame.held(arena, running, forecast_inputs)
        held.mean[:, 0] = np.maximum(held.mean[:, 0], own_blocks_held(snapshot, running))
        self.frame.spread_for(arena, held, pool)
        return held

    def _capacity(self, snapshot: Snapshot, held: Held, pool: float) -> FloatArray:
        """(K,) Blocks for all requests: the pool and what they share, less the reserve of the chance constraint."""
        shared = shared_blocks(snapshot) * held.sequences.sum(axis=0) / max(snapshot.num_running, 1)
        return np.asarray(pool + shared - self._settings.z * self.frame.spread / 2.0)


def spread_out(values: NDArray[Any], slot: IntArray, size: int, empty: float = 0) -> NDArray[Any]:
    """`values` (n, …) at their slots (n,) of `size`, `empty` elsewhere."""
    out = np.full((size, *values.shape[1:]), empty, values.dtype)
    out[slot] = values
    return out


def horizon_steps(snapshot: Snapshot, predictions: RequestPredictions, waiting: IntArray, settings: Settings) -> float:
    """How far to look: some mean outputs to come, at the engine's tokens per step."""
    remaining, running = predictions.remaining, snapshot.num_running
    total = float(remaining[:running].sum() + remaining[waiting].sum())
    return settings.horizon_outputs * total / (snapshot.habits.tokens_per_step * max(running + len(waiting), 1))


def only(forecast_inputs: ForecastInputs, rows: IntArray) -> ForecastInputs:
    """That of the requests `rows` (n,) alone, in arrays of its own."""
    curves, traits = forecast_inputs.curves, forecast_inputs.traits
    own = curves._replace(curve=curves.curve[rows], scale=curves.scale[rows])
    return ForecastInputs(own, Traits(*(column[rows] for column in traits)), forecast_inputs.block_size)


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
        requests.shared_tokens,
    )
    return np.column_stack([column[rows] for column in columns]).astype(np.float64)


def considered(snapshot: Snapshot, predictions: RequestPredictions, settings: Settings) -> IntArray:
    """(w,) The waiting requests of least key, and the oldest of the others; all of them where they are few enough."""
    waiting = np.arange(snapshot.num_running, len(predictions.key))
    if len(waiting) <= settings.candidates:
        return waiting
    order = np.argsort(predictions.key[waiting], kind="stable")
    best, left = waiting[order[: settings.candidates]], waiting[order[settings.candidates :]]
    oldest = left[np.argsort(snapshot.requests.arrival_s[left], kind="stable")[: settings.oldest]]
    return np.concatenate([best, oldest])


def forecast_pool(snapshot: Snapshot, settings: Settings) -> float:
    """Blocks that the program may plan for: the pool less the reserve and less what no running request holds."""
    total = snapshot.facts.total_blocks
    return total * (1.0 - settings.reserve_share) - max(-_counted_twice(snapshot), 0)


def shared_blocks(snapshot: Snapshot) -> int:
    """Blocks that running requests hold together, beyond the one time that each of them is there."""
    return max(_counted_twice(snapshot), 0)


def _counted_twice(snapshot: Snapshot) -> int:
    """What the running requests hold, one by one, less what is in use.

    Below 0 are blocks that others hold, and those shared among the running ones, as far as the snapshot says which.
    """
    ours = int(own_blocks_held(snapshot, np.arange(snapshot.num_running)).sum())
    return ours - (snapshot.facts.total_blocks - snapshot.free_blocks)


def own_blocks_held(snapshot: Snapshot, rows: IntArray) -> IntArray:
    """(n,) Blocks that each request holds and does not share."""
    requests = snapshot.requests
    shared = requests.shared_tokens[rows] // snapshot.facts.block_size
    return np.asarray(np.maximum(requests.blocks_held[rows] - shared, 0))


def held_blocks(snapshot: Snapshot, rows: IntArray) -> FloatArray:
    """(n,) Blocks of its own that each request holds if it runs now: those it has, or those that its context needs."""
    requests, size = snapshot.requests, snapshot.facts.block_size
    context = requests.prompt_tokens[rows] + requests.generated_tokens[rows]
    if snapshot.facts.window_tokens:
        context = np.minimum(context, snapshot.facts.window_tokens)
    runs = rows < snapshot.num_running
    wanted = np.maximum(-(-context // size) - requests.shared_tokens[rows] // size, 0)
    return np.where(runs, own_blocks_held(snapshot, rows), wanted).astype(np.float64)


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
