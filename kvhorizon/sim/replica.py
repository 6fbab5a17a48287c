"""One engine of several: requests come to it, and leave it, between two steps."""

from __future__ import annotations

import numpy as np

from kvhorizon.models.forecast import Forecast
from kvhorizon.models.kept import Kept
from kvhorizon.models.survival import mean_remaining
from kvhorizon.sim.advance import advance
from kvhorizon.sim.arrays import ARRIVED, DONE, FREE, HEAD, NOBODY, NOW, RUNNING, WAITING, Engine
from kvhorizon.sim.failure import Lost
from kvhorizon.sim.look import collect_waiting
from kvhorizon.sim.policies import Policy
from kvhorizon.sim.queue import arrive
from kvhorizon.sim.replay import LEARN_EVERY, learn, priced, start
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.step import abort
from kvhorizon.sim.weights import weights_for
from kvhorizon.solver.desk import Desk, new_desk


class Replica:
    """One engine. Its requests are numbered as in the whole trace; those sent elsewhere never arrive here."""

    def __init__(self, setup: Setup, policy: Policy) -> None:
        size = len(setup.trace)
        self.engine: Engine
        self.forecast: Forecast
        self.engine, self.forecast = start(setup, policy, alone=False)
        self.engine.counters[ARRIVED] = size  # nobody comes by itself
        self._desk: Desk = new_desk(size, setup.facts.max_num_seqs)
        seats, cost = setup.facts.max_num_seqs, setup.facts.cost
        self._guest = policy.guest.at_work(size, seats, cost, setup.prefix_caching)
        self._kept = Kept(setup.reload_s_per_token > 0.0)
        self._setup = setup
        self._weights = weights_for(setup, self.engine, self._desk) if self._guest.steers else None
        self._learned = 0
        self.lost: Lost | None = None

    @property
    def under_way(self) -> int:
        """Requests that run or wait."""
        return int(self.engine.counters[RUNNING] + self.engine.counters[WAITING])

    def run_until(self, until_s: float) -> None:
        """Step by step until then, or until nobody is left."""
        count, clock = self.engine.counters, self.engine.clock
        while self.under_way and clock[NOW] < until_s:
            learn_at = int(count[DONE]) + self.under_way  # before it goes idle, which it would take for the end
            if self._guest.steers:
                learn_at = min(learn_at, self._learned + LEARN_EVERY)
            guest = priced(self._guest, self.engine, self._kept, self._setup)
            cost = self._setup.facts.cost
            stop_s = min(until_s, self._weights.due_s) if self._weights else until_s
            advance(self.engine, self.forecast.curves, guest, cost, self._desk, stop_s, learn_at, True)
            if self._weights:
                self._weights.tick()
            if self._guest.steers and int(count[DONE]) >= self._learned + LEARN_EVERY:
                self._learned = learn(self.engine, self.forecast, self._desk, self._learned)

    def take(self, n: int, now_s: float) -> None:
        """Request `n` has come."""
        self.engine.columns.arrival_s[n] = now_s
        self._queue(n, now_s)

    def take_over(self, n: int, failed: Replica, now_s: float) -> None:
        """Request `n` comes from a failed engine, with the output that its client has."""
        live, columns = self.engine.live, self.engine.columns
        columns.generated[n] = failed.engine.columns.generated[n]
        live.high_water[n] = failed.engine.live.high_water[n]
        live.first_token_s[n] = failed.engine.live.first_token_s[n]
        self._queue(n, now_s)

    def _queue(self, n: int, now_s: float) -> None:
        clock, columns = self.engine.clock, self.engine.columns
        if not self.under_way:
            clock[NOW] = max(clock[NOW], now_s)
        arrive(self.engine, n)
        if self._guest.steers:
            columns.remaining[n] = mean_remaining(self.forecast.curves, n, columns.generated[n], columns.limit[n])

    def dismiss(self) -> list[int]:
        """All who wait leave; returns them in order."""
        size, _ = collect_waiting(self.engine, self._desk.waiting)
        leaving: list[int] = self._desk.waiting[:size].tolist()
        for n in leaving:
            abort(self.engine, n)
        return leaving

    def drop(self, n: int) -> bool:
        """Its client has gone, unless it has seen a token."""
        if np.isfinite(self.engine.live.first_token_s[n]):
            return False
        abort(self.engine, n)
        return True

    def blocks_wanted(self) -> int:
        """KV blocks that the running hold and the prompts of the waiting need."""
        engine = self.engine
        held = engine.limits.total_blocks - int(engine.counters[FREE])
        n, waiting = int(engine.counters[HEAD]), []
        while n != NOBODY:
            waiting.append(n)
            n = int(engine.live.newer[n])
        columns = engine.columns
        tokens = columns.prompt[waiting] + columns.generated[waiting]
        return held + int((-(-tokens // engine.limits.block_size)).sum())
