"""Several engines behind a router, and clients who give up and ask again.

Each engine is the simulated one; a request enters it between two steps, when the router has sent it there. Routers:

    round-robin     one after the other
    least-kv        to the engine whose requests, running and waiting, hold or need the fewest KV blocks now
    prefix          by what the prompt begins with (else by session, else by tenant), so that the prefix cache finds it

A client who has seen no token after `patience_s` gives up and its request leaves the engine; with `retries` it asks
again at once, up to so often. Latencies count from the first time it asked.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.models.forecast import Forecast
from kvhorizon.models.kept import Kept
from kvhorizon.models.survival import mean_remaining
from kvhorizon.sim.advance import advance
from kvhorizon.sim.arrays import ARRIVED, DONE, FREE, HEAD, NOBODY, NOW, RUNNING, WAITING, Engine
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies import Policy
from kvhorizon.sim.queue import arrive
from kvhorizon.sim.replay import LEARN_EVERY, learn, outcome_of, priced, start
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.step import abort
from kvhorizon.sim.tenants import shares_of
from kvhorizon.sim.trace import Trace
from kvhorizon.solver.select import Desk, new_desk

ROUTERS = ("round-robin", "least-kv", "prefix")
MOST_REPLICAS, MOST_RETRIES = 64, 10
TIMELINE_POINTS = 2000
ASKS, GIVES_UP = range(2)


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many engines, who distributes requests, and how patient clients are."""

    replicas: int = 1
    router: str = "round-robin"
    patience_s: float | None = None
    retries: int = 0

    @property
    def plain(self) -> bool:
        """One engine and endless patience: a replay as any other."""
        return self.replicas == 1 and self.patience_s is None

    def check(self) -> None:
        """Raises InputError."""
        if not 1 <= self.replicas <= MOST_REPLICAS:
            raise InputError("replicas", self.replicas, f"must be within 1 ... {MOST_REPLICAS}")
        if self.router not in ROUTERS:
            raise InputError("router", self.router, f"must be one of {', '.join(ROUTERS)}")
        if self.patience_s is not None and not 0.0 < self.patience_s < 1e9:
            raise InputError("patience-s", self.patience_s, "must be > 0")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise InputError("retries", self.retries, f"must be within 0 ... {MOST_RETRIES}")


class Replica:
    """One engine. Its requests are numbered as in the whole trace; those sent elsewhere never arrive here."""

    def __init__(self, setup: Setup, policy: Policy) -> None:
        size = len(setup.trace)
        self.engine: Engine
        self.forecast: Forecast
        self.engine, self.forecast = start(setup, policy)
        self.engine.counters[ARRIVED] = size  # nobody comes by itself
        self._desk: Desk = new_desk(size, setup.facts.max_num_seqs)
        self._guest = policy.guest.at_work(size, setup.facts.max_num_seqs, setup.facts.cost)
        self._kept = Kept(setup.reload_s_per_token > 0.0)
        self._setup = setup
        self._shares = shares_of(setup, self.engine, self._desk) if self._guest.steers else None
        self._learned = 0

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
            stop_s = min(until_s, self._shares.due_s) if self._shares else until_s
            advance(self.engine, self.forecast.curves, guest, cost, self._desk, stop_s, learn_at, True)
            if self._shares:
                self._shares.tick()
            if self._guest.steers and int(count[DONE]) >= self._learned + LEARN_EVERY:
                self._learned = learn(self.engine, self.forecast, self._desk, self._learned)

    def take(self, n: int, now_s: float) -> None:
        """Request `n` has come."""
        clock, columns = self.engine.clock, self.engine.columns
        if not self.under_way:
            clock[NOW] = max(clock[NOW], now_s)
        columns.arrival_s[n] = now_s
        arrive(self.engine, n)
        if self._guest.steers:
            columns.remaining[n] = mean_remaining(self.forecast.curves, n, 0, columns.limit[n])

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


def keys_of(trace: Trace) -> NDArray[np.int64]:
    """What the prefix router goes by, (N,)."""
    if trace.prefix_hashes is not None:
        return np.array([int(hashes[0]) if len(hashes) else n for n, hashes in enumerate(trace.prefix_hashes)])
    return trace.key if trace.session is None else np.where(trace.session >= 0, trace.session, trace.key)


def play(setup: Setup, policy: Policy, fleet: Fleet) -> Outcome:
    """Every request of the trace to its end, or until its client gives up. Plans are not asked for."""
    first = len(setup.trace)
    tries = 1 + (fleet.retries if fleet.patience_s is not None else 0)
    whole = dataclasses.replace(setup, trace=repeated(setup.trace, tries))
    replicas = [Replica(whole, policy) for _ in range(fleet.replicas)]
    keys, turns = keys_of(whole.trace), itertools.count()
    events = [(float(at_s), n, ASKS, n) for n, at_s in enumerate(setup.trace.arrival_s)]
    heapq.heapify(events)
    order, at = itertools.count(len(events)), np.zeros(first * tries, np.int64)
    while events:
        now_s, _, kind, n = heapq.heappop(events)
        if kind == GIVES_UP:
            replicas[at[n]].run_until(now_s)
            if replicas[at[n]].drop(n) and n + first < first * tries:
                heapq.heappush(events, (now_s, next(order), ASKS, n + first))
            continue
        for replica in replicas if fleet.router == "least-kv" else ():
            replica.run_until(now_s)
        at[n] = _chosen(fleet, replicas, keys[n], turns)
        replicas[at[n]].run_until(now_s)
        replicas[at[n]].take(n, now_s)
        if fleet.patience_s is not None:
            heapq.heappush(events, (now_s + fleet.patience_s, next(order), GIVES_UP, n))
    for replica in replicas:
        replica.run_until(np.inf)
    return merged(setup, [outcome_of(whole, replica.engine, {}) for replica in replicas], tries)


def _chosen(fleet: Fleet, replicas: list[Replica], key: int, turns: itertools.count[int]) -> int:
    if fleet.router == "least-kv":
        return int(np.argmin([replica.blocks_wanted() for replica in replicas]))
    return (next(turns) if fleet.router == "round-robin" else int(key) * 2654435761 % 2**32) % len(replicas)


def repeated(trace: Trace, tries: int) -> Trace:
    """The trace with room for so many tries of each request, one after the other."""

    def again(column: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        return None if column is None else np.tile(column, tries)

    return dataclasses.replace(
        trace,
        arrival_s=np.tile(trace.arrival_s, tries),
        prompt_tokens=np.tile(trace.prompt_tokens, tries),
        output_tokens=np.tile(trace.output_tokens, tries),
        key=np.tile(trace.key, tries),
        prefix_hashes=None if trace.prefix_hashes is None else trace.prefix_hashes * tries,
        session=again(trace.session),
        priority=again(trace.priority),
        sampling=again(trace.sampling),
        slo_class=None if trace.slo_class is None else trace.slo_class * tries,
    )


def merged(setup: Setup, outcomes: list[Outcome], tries: int) -> Outcome:
    """One outcome over the original requests: times of the try that was served, sums of what all tries cost.

    Times of engines are means over the replicas; the timeline adds up their blocks and requests.
    """
    first = len(setup.trace)

    def over(name: str) -> NDArray[np.float64]:
        return np.stack([getattr(one, name).reshape(tries, first) for one in outcomes])

    def served(name: str) -> NDArray[np.float64]:
        times = over(name).reshape(-1, first)
        return np.where(np.isfinite(times).any(axis=0), np.nanmin(np.nan_to_num(times, nan=np.inf), axis=0), np.nan)

    finish_s = served("finish_s")
    events = np.concatenate([one.preempted_at for one in outcomes])
    events[:, 1] %= first
    return Outcome(
        first_token_s=served("first_token_s"),
        finish_s=finish_s,
        preemptions=over("preemptions").sum(axis=(0, 1)).astype(np.int64),
        recompute_tokens=over("recompute_tokens").sum(axis=(0, 1)).astype(np.int64),
        wasted_flops=over("wasted_flops").sum(axis=(0, 1)),
        steps=sum(one.steps for one in outcomes),
        busy_s=sum(one.busy_s for one in outcomes) / len(outcomes),
        makespan_s=float(np.nanmax(finish_s)) if np.isfinite(finish_s).any() else 0.0,
        recompute_s=sum(one.recompute_s for one in outcomes) / len(outcomes),
        flops=sum(one.flops for one in outcomes),
        timeline=_together([one.timeline for one in outcomes if len(one.timeline)]),
        preempted_at=events[np.argsort(events[:, 0], kind="stable")],
        near_end_preemptions=sum(one.near_end_preemptions for one in outcomes),
        cached_tokens=sum(one.cached_tokens for one in outcomes),
    )


def _together(lines: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum of several timelines, each holding its last value."""
    if not lines:
        return np.zeros((0, 4))
    times = np.unique(np.concatenate([line[:, 0] for line in lines]))
    times = times[np.unique(np.linspace(0, len(times) - 1, TIMELINE_POINTS).astype(np.int64))]
    total = np.zeros((len(times), 3))
    for line in lines:
        place = np.searchsorted(line[:, 0], times, side="right") - 1
        total += np.where(place[:, None] >= 0, line[np.maximum(place, 0), 1:], 0.0)
    return np.column_stack([times, total])
