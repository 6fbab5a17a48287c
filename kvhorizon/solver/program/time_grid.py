"""How time is cut for one engine's programs, and V0 of the chance constraint's tangent: both kept while they fit.

Any buckets and any V0 > 0 make a valid program, so rows of waiting requests (`row_cache`) stay right from plan to plan.
When the horizon has drifted, rows for the next grid are written between plans, some at a time, and taken over when all
are there; a new V0 only prices the rows anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.survival import Curves
from kvhorizon.solver.program.occupancy import (
    Traits,
    admission_buckets,
    bucket_edges,
    full_pool_variance,
    grid_of,
    hold_now,
)
from kvhorizon.solver.program.row_cache import Arena
from kvhorizon.solver.program.search.budget import Spending
from kvhorizon.solver.program.settings import Settings
from kvhorizon.state import HandleArray, Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
HORIZON_SOON = 1.12  # drift of the horizon, as a factor, from which rows for the next grid are written ahead
HORIZON_DRIFT = 1.25  # and at which it is taken, ready or not
SPREAD_DRIFT = 2.0  # of V0: a slack of at most z·√V·(√2 + √½ − 2)/2, 6 % of the margin for the spread
TOGETHER = 32  # rows written ahead between two looks at the clock


class Held(NamedTuple):
    """What some requests hold if they run from now on, (n, K) each."""

    mean: FloatArray
    variance: FloatArray
    sequences: FloatArray


class ForecastInputs(NamedTuple):
    """What rows of some requests (N,) are computed from."""

    curves: Curves
    traits: Traits
    block_size: int


class Queue(NamedTuple):
    """The waiting requests considered, on their own, so that it stays true while the next snapshot is read."""

    handle: HandleArray  # (w,)
    depends_on: FloatArray  # (w, T) all that a row depends on, beside buckets and curve tables
    forecast_inputs: ForecastInputs  # of (w,)


class Cut(NamedTuple):
    """A grid, whose rows lie in an arena, and the horizon that it was made for [steps]."""

    arena: Arena
    horizon_steps: float


def factor(a: float, b: float) -> float:
    """How far apart two positive numbers are, ≥ 1."""
    return max(a / max(b, 1e-9), b / max(a, 1e-9))


class Frame:
    """Grid, rows and V0 of one engine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._now: Cut | None = None
        self._next: Cut | None = None
        self._written = 0  # requests of the queue, from its front, whose rows for the next grid are there
        self._spare: Arena | None = None
        self._queue: Queue | None = None
        self._made_for: tuple[object, ...] = ()
        self.spread = np.zeros(settings.buckets)  # (K,) √V0

    @property
    def spread_price(self) -> FloatArray:
        """z / (2√V0), (K,): what a unit of variance counts in blocks; 0 while V0 is not chosen."""
        return np.where(self.spread > 0.0, self._settings.z / np.maximum(2.0 * self.spread, 1e-12), 0.0)

    def fit(self, snapshot: Snapshot, wanted_steps: float, queue: Queue) -> tuple[Arena, IntArray]:
        """The arena whose rows are right for `queue`, and the slots (w,) of its requests."""
        arena = self._cut(snapshot, max(wanted_steps, 1.0))
        slot, stale = arena.place(queue.handle, queue.depends_on)
        self.write(arena, slot[stale], stale, queue.forecast_inputs)
        self._queue = queue
        return arena, slot

    def write(self, arena: Arena, slot: IntArray, rows: IntArray, forecast_inputs: ForecastInputs) -> None:
        """Compute the rows of requests `rows` (n,) into `slot` (n,)."""
        arena.write(slot, rows, *forecast_inputs, self.spread_price)

    def held(self, arena: Arena, rows: IntArray, forecast_inputs: ForecastInputs) -> Held:
        """What the requests `rows` (n,) hold if they run from now on."""
        shape = (len(rows), len(arena.grid.edges) - 1)
        held = Held(np.empty(shape), np.empty(shape), np.empty(shape))
        hold_now(
            forecast_inputs.curves, forecast_inputs.traits, rows, arena.grid, float(forecast_inputs.block_size), *held
        )
        return held

    def spread_for(self, arena: Arena, running: Held, pool: float) -> None:
        """Choose V0 anew where the present one is too far from the variance of a full pool."""
        in_use = running.mean.sum(axis=0), running.variance.sum(axis=0)
        wanted = full_pool_variance(in_use, arena.offered(), pool)
        now = np.maximum(self.spread**2, 1e-9)
        if max((wanted / now).max(), (now / wanted).max()) > SPREAD_DRIFT:
            self.spread = np.sqrt(wanted)
            arena.reprice(self.spread_price)

    def work_ahead(self, budget: Spending) -> None:
        """Write rows for the next grid while the `budget` lasts; nothing to do where none is wanted."""
        while self._next is not None and not self._all_written():
            if not budget.allows("ahead"):  # what was slow is the first touch of memory, and no pace to go by
                budget.refused("ahead")
                return
            budget.timed("ahead", self._write_some)

    def forget(self) -> None:
        """Write all rows anew at the next plan."""
        if self._now is not None:
            self._now.arena.forget()

    def _cut(self, snapshot: Snapshot, steps: float) -> Arena:
        """The present grid, or the next one where the horizon, the engine or its forecasts have changed."""
        facts, gained = snapshot.facts, snapshot.habits.tokens_per_step
        made_for = (facts, snapshot.curves_version, gained)
        if self._now is None or made_for != self._made_for:
            self._next, self._made_for = None, made_for
            return self._take(self._anew(snapshot, steps, self._now.arena if self._now else self._spare))
        drift, ready = factor(steps, self._now.horizon_steps), self._next is not None and self._all_written()
        if self._next is not None and (ready or drift > HORIZON_DRIFT):
            ahead, self._next = self._next, None
            if factor(steps, ahead.horizon_steps) < drift:
                self._spare = self._now.arena
                ahead.arena.follow(self._spare)
                return self._take(ahead)
            self._spare = ahead.arena
        if drift > HORIZON_DRIFT:
            return self._take(self._anew(snapshot, steps, self._now.arena))
        if drift > HORIZON_SOON and self._next is None:
            self._next, self._written = self._anew(snapshot, steps, self._spare), 0
        return self._now.arena

    def _write_some(self) -> None:
        assert self._queue is not None
        assert self._now is not None
        assert self._next is not None
        queue, arena = self._queue, self._next.arena
        arena.follow(self._now.arena)
        self._written = min(self._written + TOGETHER, len(queue.handle))
        front = slice(0, self._written)
        slot, stale = arena.place(queue.handle[front], queue.depends_on[front])
        self.write(arena, slot[stale], stale, queue.forecast_inputs)

    def _all_written(self) -> bool:
        return self._queue is not None and self._written >= len(self._queue.handle)

    def _take(self, cut: Cut) -> Arena:
        self._now, self.spread = cut, np.zeros(self._settings.buckets)
        return cut.arena

    def _anew(self, snapshot: Snapshot, steps: float, arena: Arena | None) -> Cut:
        """A grid for this horizon, in an arena that is of no other use, if there is one."""
        edges, points = bucket_edges(steps, self._settings), admission_buckets(self._settings)
        grid = grid_of(edges, points, snapshot.habits.tokens_per_step, snapshot.facts.window_tokens)
        reserved = min(self._settings.max_evictions, snapshot.facts.max_num_seqs)
        if arena is None or arena.reserved != reserved:
            return Cut(Arena(reserved, grid), steps)
        arena.regrid(grid)
        return Cut(arena, steps)
