"""Forecasts of length to be compared, on all open traces with lengths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from experiments.common._cells import LENGTHS, MEASURED
from experiments.common._harness import data
from kvhorizon.models.forecast.bins import BINS, UNIT_TOKENS, bin_of, tabulate
from kvhorizon.models.forecast.history.chains import length_chain
from kvhorizon.models.forecast.history.guarded import GuardedHistory
from kvhorizon.models.forecast.learned.features import Recorded
from kvhorizon.models.forecast.lognormal import Window, fit_lognormal
from kvhorizon.models.forecast.prequential import Forecaster, OnlineHistory, finish_times
from kvhorizon.models.forecast.survival import GRID_POINTS, lognormal_curve
from kvhorizon.sim.workload.readers import PREFIX_TOKENS, read_lengths, read_trace
from kvhorizon.sim.workload.trace import Trace, limit, make_trace

LENGTHS_RATE = 5.0  # arrivals per second of traces that have none, as a Poisson process
ROWS = 256
QUICK_REQUESTS = 1500


def traces(quick: bool) -> dict[str, Trace]:
    """All open traces with lengths; those without arrivals get some."""
    most = QUICK_REQUESTS if quick else 10**9
    found = {name: limit(read_trace(data() / "traces" / file), most) for name, file in MEASURED.items()}
    found["lmcache_miniswe"] = read_trace(data() / "traces" / "lmcache_miniswe_a.csv.gz", PREFIX_TOKENS)
    for name, file in LENGTHS.items():
        prompt, output = (column[:most] for column in read_lengths(data() / "traces" / file))
        rng = np.random.default_rng(0)
        order = rng.permutation(len(prompt))
        arrival_s = np.cumsum(rng.exponential(1.0 / LENGTHS_RATE, len(prompt)))
        found[name] = make_trace(name, arrival_s - arrival_s[0], prompt[order], output[order])
    return found


def recorded(trace: Trace) -> Recorded:
    """A trace as a recording of the simple engine."""
    ends = finish_times(trace.arrival_s, trace.output_tokens)
    columns = (trace.prompt_tokens, trace.output_tokens, trace.key, trace.session)
    return Recorded(trace.arrival_s, ends, *columns, trace.prefix_hashes, trace.prefix_tokens)


def global_history(trace: Trace) -> Forecaster:
    """One curve for all requests, learned online."""
    return OnlineHistory(trace.output_tokens, np.zeros((len(trace), 0), np.int64), rows=2)


class History(OnlineHistory):
    """What the product does without any set-up: chains of keys, drift noticed."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.output_tokens, length_chain(trace.key, trace.prompt_tokens), rows=2)
        self.history: GuardedHistory = GuardedHistory(ROWS)


class _Deaf:
    """A forecaster that learns nothing."""

    def learn(self, finished: np.ndarray) -> None:
        """Knows all."""

    def watch(self, running: np.ndarray, generated: np.ndarray) -> None:
        """Knows all."""


class InSample(_Deaf):
    """Each tenant's distribution over the whole trace, the future included: an unfair reference."""

    def __init__(self, trace: Trace) -> None:
        self.key = trace.key
        self.tables: dict[int, np.ndarray] = {}
        for key in np.unique(trace.key).tolist():
            counts = np.bincount(bin_of(trace.output_tokens[trace.key == key]), minlength=BINS)
            table, residual = np.zeros((2, GRID_POINTS))
            tabulate(1.0 - np.cumsum(counts) / counts.sum(), table, residual)
            self.tables[key] = table

    def curve(self, request: int) -> tuple[np.ndarray, float]:
        """The tenant's."""
        return self.tables[int(self.key[request])], UNIT_TOKENS


class LogNormalFit(_Deaf):
    """A log-normal fitted to the last 2 000 requests that finished."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.window = trace, Window(2000)
        self.table, self.scale = lognormal_curve(1.4), 512.0

    def learn(self, finished: np.ndarray) -> None:
        """Fit anew."""
        self.window.extend(self.trace.output_tokens[finished])
        mean, log_sigma = fit_lognormal(self.window.lengths())
        self.table, self.scale = lognormal_curve(log_sigma), float(np.exp(mean))

    def curve(self, request: int) -> tuple[np.ndarray, float]:
        """The same for all."""
        return self.table, self.scale


KINDS: dict[str, Callable[[Trace], Forecaster]] = {
    "global": global_history,
    "lognormal": LogNormalFit,
    "history": History,
    "in_sample": InSample,
}
