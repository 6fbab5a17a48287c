"""Scoring forecasts of length in arrival order: who finished when, and how good a curve was.

A request finishes at arrival + TTFT_S + output tokens · TPOT_S: a simple engine, the same for every forecast, which
decides only what is known when. Nothing from the future is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit

from experiments._cells import LENGTHS, MEASURED
from experiments._harness import data
from kvhorizon.models.bins import BINS, UNIT_TOKENS, bin_of, tabulate
from kvhorizon.models.forecast import length_chain
from kvhorizon.models.history import LengthHistory
from kvhorizon.models.lognormal import Window, fit_lognormal
from kvhorizon.models.survival import GRID_POINTS, _interpolate, lognormal_curve
from kvhorizon.sim.trace import Trace
from kvhorizon.sim.traces import limit, make_trace, read_lengths, read_trace

TTFT_S, TPOT_S = 0.5, 0.03
WARM_UP = 500  # requests before any is scored
LENGTHS_RATE = 5.0  # arrivals per second of traces that have none, as a Poisson process
WATCH_EVERY_S = 1.0
TAUS = np.arange(1, 20) / 20.0  # quantiles of the pinball loss

FloatArray = np.ndarray


class Forecaster(Protocol):
    """One way to forecast the requests of a trace."""

    def learn(self, finished: np.ndarray) -> None:
        """Take in (n,) requests, in order of finish."""

    def watch(self, running: np.ndarray, generated: np.ndarray) -> None:
        """See (n,) running requests and their tokens so far."""

    def curve(self, request: int) -> tuple[np.ndarray, float]:
        """Survival (G,) of a request that arrives now, and its scale [tokens]."""


@dataclass
class Scores:
    """Of each request scored, in arrival order."""

    requests: np.ndarray  # (n,) which
    pinball: np.ndarray  # (n,) mean over TAUS [tokens]
    pit: np.ndarray  # (n,) randomised, uniform if the forecast is calibrated
    log_score: np.ndarray  # (n,) log of the probability given to what happened [nats]

    def coverage(self, share: float) -> float:
        """Share of requests inside the central band that should hold `share`."""
        return float((np.abs(self.pit - 0.5) <= 0.5 * share).mean())


def traces(quick: bool) -> dict[str, Trace]:
    """All open traces with lengths; those without arrivals get some."""
    most = 1500 if quick else 10**9
    found = {name: limit(read_trace(data() / "traces" / file), most) for name, file in MEASURED.items()}
    found["lmcache_miniswe"] = read_trace(data() / "traces" / "lmcache_miniswe_a.csv.gz")
    for name, file in LENGTHS.items():
        prompt, output = (column[:most] for column in read_lengths(data() / "traces" / file))
        rng = np.random.default_rng(0)
        order = rng.permutation(len(prompt))
        arrival_s = np.cumsum(rng.exponential(1.0 / LENGTHS_RATE, len(prompt)))
        found[name] = make_trace(name, arrival_s - arrival_s[0], prompt[order], output[order])
    return found


def score(trace: Trace, forecaster: Forecaster, seed: int = 0, warm_up: int = WARM_UP) -> Scores:
    """Run the trace past a forecaster."""
    size = len(trace)
    finish_s = trace.arrival_s + TTFT_S + TPOT_S * trace.output_tokens
    by_finish = np.argsort(finish_s, kind="stable")
    spread = np.random.default_rng(seed).random(size)
    kept = np.zeros((size, 3))
    done, watched_s = 0, 0.0
    for n in range(size):
        now = trace.arrival_s[n]
        last = done + int(np.searchsorted(finish_s[by_finish[done:]], now, side="right"))
        if last > done:
            forecaster.learn(by_finish[done:last])
            done = last
        if now - watched_s >= WATCH_EVERY_S:
            watched_s = now
            running = np.flatnonzero(finish_s[:n] > now)
            so_far = np.maximum(0.0, (now - trace.arrival_s[running] - TTFT_S) / TPOT_S).astype(np.int64)
            forecaster.watch(running, np.minimum(so_far, trace.output_tokens[running] - 1))
        if n >= warm_up:
            table, scale = forecaster.curve(n)
            kept[n] = _score(table, scale, trace.output_tokens[n], spread[n], TAUS)
    return Scores(np.arange(warm_up, size), *kept[warm_up:].T)


@njit(cache=True)
def quantile(table, scale, share):  # type: ignore[no-untyped-def]
    """Length below which `share` of the requests end [tokens]."""
    low, high = 0, GRID_POINTS - 1
    if table[high] > 1.0 - share:
        return scale * 2.0 ** (high / 16.0 - 16.0)
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle] > 1.0 - share:
            low = middle
        else:
            high = middle
    begin, end = 2.0 ** (low / 16.0 - 16.0), 2.0 ** (high / 16.0 - 16.0)
    drop = table[low] - table[high]
    along = (table[low] - (1.0 - share)) / drop if drop > 0.0 else 1.0
    return scale * (begin + min(max(along, 0.0), 1.0) * (end - begin))


@njit(cache=True)
def _score(table, scale, length, spread, taus):  # type: ignore[no-untyped-def]
    loss = 0.0
    for tau in taus:
        error = length - np.ceil(quantile(table, scale, tau))
        loss += max(tau * error, (tau - 1.0) * error) / taus.size
    before = 1.0 - _interpolate(table, (length - 1.0) / scale)
    after = max(before, 1.0 - _interpolate(table, length / scale))
    return loss, before + spread * (after - before), np.log(max(after - before, 1e-9))


class Online:
    """A length history with a chain of keys per request, or none."""

    def __init__(self, trace: Trace, chains: np.ndarray, rows: int = 256) -> None:
        self.history = LengthHistory(rows)
        self.trace, self.chains = trace, chains

    def learn(self, finished: np.ndarray) -> None:
        self.history.learn(self.chains[finished], self.trace.output_tokens[finished])

    def watch(self, running: np.ndarray, generated: np.ndarray) -> None:
        self.history.watch(self.chains[running], generated)

    def curve(self, request: int) -> tuple[np.ndarray, float]:
        row = self.history.rows_of(self.chains[request : request + 1])[0]
        return self.history.survival[row], UNIT_TOKENS


def global_history(trace: Trace) -> Forecaster:
    """One curve for all requests."""
    return Online(trace, np.zeros((len(trace), 0), np.int64), rows=2)


def history(trace: Trace) -> Forecaster:
    """What the product does without any set-up."""
    return Online(trace, length_chain(trace.key, trace.prompt_tokens))


class InSample:
    """Each tenant's distribution over the whole trace, the future included: an unfair reference."""

    def __init__(self, trace: Trace) -> None:
        self.key = trace.key
        self.tables: dict[int, np.ndarray] = {}
        for key in np.unique(trace.key).tolist():
            counts = np.bincount(bin_of(trace.output_tokens[trace.key == key]), minlength=BINS)
            table, residual = np.zeros((2, GRID_POINTS))
            tabulate(1.0 - np.cumsum(counts) / counts.sum(), table, residual)
            self.tables[key] = table

    def learn(self, finished: np.ndarray) -> None:
        """Knows all."""

    def watch(self, running: np.ndarray, generated: np.ndarray) -> None:
        """Knows all."""

    def curve(self, request: int) -> tuple[np.ndarray, float]:
        return self.tables[int(self.key[request])], UNIT_TOKENS


class LogNormalFit:
    """A log-normal fitted to the last 2 000 requests that finished."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.window = trace, Window(2000)
        self.table, self.scale = lognormal_curve(1.4), 512.0

    def learn(self, finished: np.ndarray) -> None:
        self.window.extend(self.trace.output_tokens[finished])
        mean, log_sigma = fit_lognormal(self.window.lengths())
        self.table, self.scale = lognormal_curve(log_sigma), float(np.exp(mean))

    def watch(self, running: np.ndarray, generated: np.ndarray) -> None:
        """Blind to it."""

    def curve(self, request: int) -> tuple[np.ndarray, float]:
        return self.table, self.scale


KINDS: dict[str, Callable[[Trace], Forecaster]] = {
    "global": global_history,
    "lognormal": LogNormalFit,
    "history": history,
    "in_sample": InSample,
}
