"""What the guardrail measures of the engine: two sums per step, all else read where a window begins or ends.

By Little's law the time that requests spend somewhere is the integral of how many are there, so that no request has to
be followed: of W requests that were never scheduled and A that were (running, or evicted and waiting again)

    wait for the start   = ∫ W dt / requests started          [s]
    time per token       = ∫ A dt / tokens generated          [s]

Together they hold every second of every request; a slow prefill is in the second.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvhorizon.adapter.accounting.recomputation import Accounting

BINDS = 0.5  # requests waiting on average, from which memory or sequence slots bind
LEAST_STARTED = 0.5  # in place of none, so that waits stay finite


class Seen(NamedTuple):
    """Of one engine since its start, or in one window."""

    now_s: float  # at its end; of a window: how long it was
    arrived: int  # requests
    started: int  # of these, scheduled at least once, or over
    finished: int
    tokens: int  # generated
    preemptions: int
    waiting_s: float  # ∫ W dt [request · s]
    active_s: float  # ∫ A dt [request · s]

    def since(self, before: Seen) -> Seen:
        """The window from then to now."""
        return Seen(
            self.now_s - before.now_s,
            self.arrived - before.arrived,
            self.started - before.started,
            self.finished - before.finished,
            self.tokens - before.tokens,
            self.preemptions - before.preemptions,
            self.waiting_s - before.waiting_s,
            self.active_s - before.active_s,
        )

    @property
    def binds(self) -> bool:
        """Whether something had to wait or was evicted: else every rule does the same."""
        return self.preemptions > 0 or self.waiting_s > BINDS * self.now_s

    @property
    def wait_s(self) -> float:
        """Before a request starts."""
        return self.waiting_s / max(self.started, LEAST_STARTED)

    @property
    def token_s(self) -> float:
        """From one token of a request to the next, prefill and evictions included."""
        return self.active_s / max(self.tokens, 1)

    @property
    def tokens_per_s(self) -> float:
        """Generated; prompts would count for those that fill the memory first."""
        return self.tokens / self.now_s

    @property
    def preemptions_per_s(self) -> float:
        """Whoever chose the victims."""
        return self.preemptions / self.now_s


class Meter:
    """Of one scheduler; `accounting` knows the evicted and the ended."""

    def __init__(self, scheduler: Any, accounting: Accounting) -> None:
        self._scheduler, self._accounting = scheduler, accounting
        self._last_s = 0.0
        self._waiting_s = self._active_s = 0.0

    def step(self, now_s: float) -> None:
        """A step begins. Before it, the engine was idle if nothing runs: that time counts for nothing."""
        scheduler, accounting = self._scheduler, self._accounting
        running = len(scheduler.running)
        if running:
            active = running + len(accounting.behind) - len(accounting.back)
            past_s = now_s - self._last_s
            self._active_s += past_s * active
            self._waiting_s += past_s * (len(scheduler.requests) - active)
        self._last_s = now_s

    def read(self, now_s: float) -> Seen:
        """All so far; a pass over the requests that run or were evicted."""
        scheduler, accounting = self._scheduler, self._accounting
        live = {request.request_id: request for request in scheduler.running}
        live |= {name: scheduler.requests[name] for name in accounting.behind if name in scheduler.requests}
        finished, ended_tokens = accounting.finished, accounting.output_tokens
        return Seen(
            now_s=now_s,
            arrived=len(scheduler.requests) + finished,
            started=len(live) + finished,
            finished=finished,
            tokens=ended_tokens + sum(request.num_output_tokens for request in live.values()),
            preemptions=accounting.total.preemptions,
            waiting_s=self._waiting_s,
            active_s=self._active_s,
        )
