"""Batches of a busy engine, what was promised of their peaks and what they were.

Requests of a trace enter `slots` places in arrival order, one as soon as another ends; each step gives each a token.
Every `GAP_STEPS` steps the batch is looked at: its peak within a horizon, run on without admission or eviction, is
forecast from what is known then, and told to the calibration once the horizon has passed.
"""

from __future__ import annotations

import heapq
from collections import deque

import numpy as np

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.growth import Growth, block_profile, sample_steps, survival_profile
from kvhorizon.models.forecast.history.chains import length_chain
from kvhorizon.models.forecast.history.history import UNIT_TOKENS, LengthHistory
from kvhorizon.models.forecast.overflow import PeakScores, peak_at, score_of
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.sim.workload.trace import Trace

GAP_STEPS = 500
HORIZONS = (64, 256, 1024)
CHANCES = (0.01, 0.05, 0.2)
BLOCK = 16
NO_LIMIT = 1 << 30


def occupy(output_tokens: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last step (n,) of each request."""
    free = [0] * slots
    begin = np.zeros(len(output_tokens), np.int64)
    for n, length in enumerate(output_tokens.tolist()):
        begin[n] = heapq.heappop(free)
        heapq.heappush(free, int(begin[n]) + length)
    return begin, begin + output_tokens


@counting
def peak_of(held, remaining, horizon):  # type: ignore[no-untyped-def]
    """Largest sum of blocks over steps 0 … horizon, of requests with (n,) tokens held and steps remaining."""
    peak = 0.0
    for t in range(horizon + 1):
        blocks = 0.0
        for i in range(len(held)):
            if remaining[i] > t:
                blocks += (held[i] + t + BLOCK - 1) // BLOCK
        peak = max(peak, blocks)
    return peak


class Watch:
    """One trace's engine, forecasts and calibration."""

    def __init__(self, trace: Trace, slots: int) -> None:
        self.trace = trace
        self.begin, self.end = occupy(trace.output_tokens, slots)
        self.chains = length_chain(trace.key, trace.prompt_tokens)
        self.history = LengthHistory(256)
        self.scores = {horizon: PeakScores() for horizon in HORIZONS}
        self.pending = {horizon: deque() for horizon in HORIZONS}

    def run(self, warm_up: int) -> np.ndarray:
        """(snapshots, horizons, chances) whether the peak exceeded the forecast quantile."""
        by_end = np.argsort(self.end, kind="stable")
        done, exceeded = 0, []
        last_begin = int(self.begin[-1])  # the engine is full until then
        for now in range(GAP_STEPS, last_begin, GAP_STEPS):
            last = int(np.searchsorted(self.end[by_end], now, side="right"))
            for first in range(done, last, 32):
                some = by_end[first : min(first + 32, last)]
                self.history.learn(self.chains[some], self.trace.output_tokens[some])
            done = last
            running = np.flatnonzero((self.begin <= now) & (self.end > now))
            self.history.watch(self.chains[running], now - self.begin[running])
            looked = self._look(now, running)
            if done >= warm_up:
                exceeded.append(looked)
        return np.array(exceeded).reshape(-1, len(HORIZONS), len(CHANCES))

    def _look(self, now: int, running: np.ndarray) -> list[list[bool]]:
        generated = now - self.begin[running]
        held = self.trace.prompt_tokens[running] + generated
        exceeded = []
        for horizon in HORIZONS:
            scores, pending = self.scores[horizon], self.pending[horizon]
            while pending and pending[0][0] <= now:
                scores.learn(pending.popleft()[1])
            mean, deviation = self._forecast(running, generated, held, horizon)
            peak = peak_of(held, self.end[running] - now, horizon)
            exceeded.append([bool(peak > peak_at(mean, deviation, scores.z(p)) + 1e-6) for p in CHANCES])
            pending.append((now + horizon, score_of(mean, deviation, peak)))
        return exceeded

    def _forecast(
        self, running: np.ndarray, generated: np.ndarray, held: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        size, steps = len(running), np.concatenate([[0.0], sample_steps(horizon)])
        rows = self.history.rows_of(self.chains[running])
        curves = Curves(self.history.survival, self.history.residual, rows, np.full(size, UNIT_TOKENS))
        alive, mean, variance = np.zeros((3, size, len(steps)))
        limit = np.full(size, NO_LIMIT)
        survival_profile(curves, np.arange(size), generated, limit, steps, 1.0, alive)
        block_profile(alive, held, np.zeros(size), Growth(steps, 1.0, BLOCK, float(NO_LIMIT)), mean, variance)
        return mean.sum(axis=0), np.sqrt(variance.sum(axis=0))


def calibration_errors(exceeded: np.ndarray) -> np.ndarray:
    """(horizons, chances) log2 of the share of snapshots that exceeded their quantile, over what was promised."""
    return np.log2(np.maximum(exceeded.mean(axis=0), 1e-6) / np.array(CHANCES))
