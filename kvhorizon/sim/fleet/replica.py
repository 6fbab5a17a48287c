"""One engine of several: requests come to it, and leave it, between two steps."""

from __future__ import annotations

import numpy as np

from kvhorizon.models.forecast.of_a_trace import Forecast
from kvhorizon.models.forecast.survival import mean_remaining
from kvhorizon.models.performance.kept_share import Kept
from kvhorizon.sim.engine.advance import advance
from kvhorizon.sim.engine.arrays import ARRIVED, DONE, FREE, HEAD, NO_REQUEST, NOW, RUNNING, WAITING, Engine
from kvhorizon.sim.engine.failure import Lost
from kvhorizon.sim.engine.queue import arrive
from kvhorizon.sim.engine.step import abort
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.policies.view import collect_waiting
from kvhorizon.sim.policies.weights import weights_for
from kvhorizon.sim.replay import LEARN_EVERY, learn, priced, start
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.heuristic.scratch import Scratch, new_scratch


class Replica:
    """One engine. Its requests are numbered as in the whole trace; those sent elsewhere never arrive here."""

    def __init__(self, setup: Setup, policy: Policy) -> None:
        size = len(setup.trace)
        self.engine: Engine
        self.forecast: Forecast
        self.engine, self.forecast = start(setup, policy, alone=False)
        self.engine.counters[ARRIVED] = size  # no request comes by itself
        self._scratch: Scratch = new_scratch(size, setup.facts.max_num_seqs)
        seats, cost = setup.facts.max_num_seqs, setup.facts.cost
        self._plugin = policy.plugin.at_work(size, seats, cost, setup.prefix_caching)
        self._kept = Kept(setup.reload_s_per_token > 0.0)
        self._setup = setup
        self._weights = weights_for(setup, self.engine, self._scratch) if self._plugin.steers else None
        self._learned = 0
        self.lost: Lost | None = None

    @property
    def under_way(self) -> int:
        """Requests that run or wait."""
        return int(self.engine.counters[RUNNING] + self.engine.counters[WAITING])

    def run_until(self, until_s: float) -> None:
        """Step by step until then, or until no request is left."""
        count, clock = self.engine.counters, self.engine.clock
        while self.under_way and clock[NOW] < until_s:
            learn_at = int(count[DONE]) + self.under_way  # before it goes idle, which it would take for the end
            if self._plugin.steers:
                learn_at = min(learn_at, self._learned + LEARN_EVERY)
            plugin = priced(self._plugin, self.engine, self._kept, self._setup)
            cost = self._setup.facts.cost
            stop_s = min(until_s, self._weights.due_s) if self._weights else until_s
            advance(self.engine, self.forecast.curves, plugin, cost, self._scratch, stop_s, learn_at, True)
            if self._weights:
                self._weights.tick()
            if self._plugin.steers and int(count[DONE]) >= self._learned + LEARN_EVERY:
                self._learned = learn(self.engine, self.forecast, self._scratch, self._learned)

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
        if self._plugin.steers:
            columns.remaining[n] = mean_remaining(self.forecast.curves, n, columns.generated[n], columns.limit[n])

    def dismiss(self) -> list[int]:
        """All who wait leave; returns them in order."""
        size, _ = collect_waiting(self.engine, self._scratch.waiting)
        leaving: list[int] = self._scratch.waiting[:size].tolist()
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
        while n != NO_REQUEST:
            waiting.append(n)
            n = int(engine.live.newer[n])
        columns = engine.columns
        tokens = columns.prompt[waiting] + columns.generated[waiting]
        return held + int((-(-tokens // engine.limits.block_size)).sum())
