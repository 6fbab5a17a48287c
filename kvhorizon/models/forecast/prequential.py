"""Scoring a forecaster in arrival order, with nothing from the future (Dawid, "The prequential approach", 1984).

A request finishes at arrival + TTFT_S + output tokens · TPOT_S: a simple engine, the same for every forecaster, which
decides only what is known when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.bins import UNIT_TOKENS
from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.scoring import TAUS, quantile, score_length

TTFT_S, TPOT_S = 0.5, 0.03
WATCH_EVERY_S = 1.0

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Forecaster(Protocol):
    """One way to forecast the requests of a trace."""

    def learn(self, finished: IntArray) -> None:
        """Take in (n,) requests, in order of finish."""
        ...

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """See (n,) running requests and their tokens so far."""
        ...

    def curve(self, request: int) -> tuple[FloatArray, float]:
        """Survival (G,) of a request that arrives now, and its scale [tokens]."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Of each request scored, in arrival order."""

    requests: IntArray  # (n,) which
    pinball: FloatArray  # (n,) mean over TAUS [tokens]
    pit: FloatArray  # (n,) randomised, uniform if the forecast is calibrated
    log_score: FloatArray  # (n,) log of the probability given to what happened [nats]
    error: FloatArray  # (n,) length less the forecast's median [tokens]

    def coverage(self, share: float) -> float:
        """Share of requests inside the central band that should hold `share`."""
        return float((np.abs(self.pit - 0.5) <= 0.5 * share).mean())


class OnlineHistory:
    """A length history with a chain of keys (N, levels) per request."""

    def __init__(self, output_tokens: IntArray, chains: IntArray, rows: int = 256) -> None:
        self.history = LengthHistory(rows)
        self._output, self._chains = output_tokens, chains

    def learn(self, finished: IntArray) -> None:
        """See `Forecaster.learn`."""
        self.history.learn(self._chains[finished], self._output[finished])

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """See `Forecaster.watch`."""
        self.history.watch(self._chains[running], generated)

    def curve(self, request: int) -> tuple[FloatArray, float]:
        """See `Forecaster.curve`."""
        row = self.history.rows_of(self._chains[request : request + 1])[0]
        return self.history.survival[row], UNIT_TOKENS


def finish_times(arrival_s: FloatArray, output_tokens: IntArray) -> FloatArray:
    """(N,) when requests end on the simple engine [s]."""
    ends: FloatArray = arrival_s + TTFT_S + TPOT_S * output_tokens
    return ends


def score(
    arrival_s: FloatArray, output_tokens: IntArray, forecaster: Forecaster, first: int = 0, seed: int = 0
) -> Scores:
    """Run N requests, sorted by arrival, past a forecaster; those from `first` on are scored."""
    size = len(arrival_s)
    finish_s = finish_times(arrival_s, output_tokens)
    by_finish = np.argsort(finish_s, kind="stable")
    ends = finish_s[by_finish]
    spread = np.random.default_rng(seed).random(size)
    kept = np.zeros((size, 4))
    done, watched_s = 0, 0.0
    for n, now in enumerate(arrival_s.tolist()):
        last = int(np.searchsorted(ends, now, side="right"))
        if last > done:
            forecaster.learn(by_finish[done:last])
            done = last
        if now - watched_s >= WATCH_EVERY_S:
            watched_s = now
            running = np.flatnonzero(finish_s[:n] > now)
            so_far = np.maximum(0.0, (now - arrival_s[running] - TTFT_S) / TPOT_S).astype(np.int64)
            forecaster.watch(running, np.minimum(so_far, output_tokens[running] - 1))
        if n >= first:
            table, scale = forecaster.curve(n)
            kept[n, :3] = score_length(table, scale, output_tokens[n], spread[n], TAUS)
            kept[n, 3] = output_tokens[n] - np.ceil(quantile(table, scale, 0.5))
    return Scores(np.arange(first, size), *kept[first:].T)
