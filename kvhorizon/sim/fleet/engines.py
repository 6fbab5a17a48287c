"""Several engines behind a router, and clients who give up and ask again.

Each engine is the simulated one; a request enters it between two steps, when the router has sent it there. Routers:

    round-robin     one after the other
    least-kv        to the engine whose requests, running and waiting, hold or need the fewest KV blocks now
    prefix          by what the prompt begins with (else by session, else by tenant), so that the prefix cache finds it

Of several engines the first may fail: its requests, running or waiting, are sent to the others again, where they queue
as newcomers do and prefill prompt and output so far; the router sends it nothing until it is back.

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
from kvhorizon.sim.engine.arrays import NO_REQUEST
from kvhorizon.sim.engine.failure import Failure, shut_down, strike
from kvhorizon.sim.fleet.merged import merged, repeated
from kvhorizon.sim.fleet.replica import Replica
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.replay import outcome_of
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace

ROUTERS = ("round-robin", "least-kv", "prefix")
MOST_REPLICAS, MOST_RETRIES = 64, 10
ASKS, GIVES_UP, FAILS = range(3)


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


def keys_of(trace: Trace) -> NDArray[np.int64]:
    """What the prefix router goes by, (N,)."""
    if trace.prefix_hashes is not None:
        return np.array([int(hashes[0]) if len(hashes) else n for n, hashes in enumerate(trace.prefix_hashes)])
    return trace.key if trace.session is None else np.where(trace.session >= 0, trace.session, trace.key)


class Router:
    """Sends requests to the engines that are up."""

    def __init__(self, fleet: Fleet, replicas: list[Replica], keys: NDArray[np.int64]) -> None:
        self.at = np.zeros(len(keys), np.int64)  # (N,) the engine that each request went to
        self._replicas, self._keys, self._by = replicas, keys, fleet.router
        self._turns = itertools.cycle(range(len(replicas)))
        self._first_back_s = -np.inf

    def engine_for(self, n: int, now_s: float) -> Replica:
        """The engine that request `n` goes to, run until then."""
        first_up = now_s >= self._first_back_s or len(self._replicas) == 1
        up = range(0 if first_up else 1, len(self._replicas))
        for place in up if self._by == "least-kv" else ():
            self._replicas[place].run_until(now_s)
        self.at[n] = self._place(up, int(self._keys[n]))
        chosen: Replica = self._replicas[self.at[n]]
        chosen.run_until(now_s)
        return chosen

    def fail(self, failure: Failure) -> None:
        """The first engine fails; the others, where there are any, get its requests."""
        first = self._replicas[0]
        first.run_until(failure.at_s)
        first.lost = strike(first.engine)
        moving = first.dismiss() if len(self._replicas) > 1 else []
        shut_down(first.engine, failure)
        self._first_back_s = failure.back_s
        for n in moving:
            self.engine_for(n, failure.at_s).take_over(n, first, failure.at_s)

    def _place(self, up: range, key: int) -> int:
        if self._by == "least-kv":
            return min(up, key=lambda place: self._replicas[place].blocks_wanted())
        if self._by == "round-robin":
            return next(place for place in self._turns if place in up)
        mixed = key * 2654435761 % 2**32
        place = mixed % len(self._replicas)
        return place if place in up else up[mixed // len(self._replicas) % len(up)]


def play(setup: Setup, policy: Policy, fleet: Fleet, failure: Failure | None = None) -> Outcome:
    """Every request of the trace to its end, or until its client gives up. Plans are not asked for."""
    first = len(setup.trace)
    tries = 1 + (fleet.retries if fleet.patience_s is not None else 0)
    whole = dataclasses.replace(setup, trace=repeated(setup.trace, tries))
    replicas = [Replica(whole, policy) for _ in range(fleet.replicas)]
    router = Router(fleet, replicas, keys_of(whole.trace))
    events = [(float(at_s), n, ASKS, n) for n, at_s in enumerate(setup.trace.arrival_s)]
    if failure is not None:
        events.append((failure.at_s, len(events), FAILS, NO_REQUEST))
    heapq.heapify(events)
    order = itertools.count(len(events))
    while events:
        now_s, _, kind, n = heapq.heappop(events)
        if kind == FAILS and failure is not None:
            router.fail(failure)
        elif kind == GIVES_UP:
            asked = replicas[router.at[n]]
            asked.run_until(now_s)
            if asked.drop(n) and n + first < first * tries:
                heapq.heappush(events, (now_s, next(order), ASKS, n + first))
        else:
            router.engine_for(n, now_s).take(n, now_s)
            if fleet.patience_s is not None:
                heapq.heappush(events, (now_s + fleet.patience_s, next(order), GIVES_UP, n))
    for replica in replicas:
        replica.run_until(np.inf)
    return merged(setup, [outcome_of(whole, one.engine, {}, one.lost) for one in replicas], tries)
