"""Whether the forecasts of a what-if kept their promises: per request, and of the peak of whole batches.

Requests pass the forecast in arrival order on the simple engine of `models.forecast.prequential`, which has no queue,
so that every policy's forecast is judged alike, with nothing from the future. Batches are what runs there every so
often; the peak within `HORIZON_TOKENS` of each request, none admitted or evicted, is held against the quantiles
promised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.growth import Growth, block_profile, sample_steps, survival_profile
from kvhorizon.models.forecast.of_a_trace import Forecast, make_forecast
from kvhorizon.models.forecast.overflow import PeakScores, peak_at, score_of
from kvhorizon.models.forecast.prequential import Scores, finish_times, score
from kvhorizon.models.forecast.survival import EXACT
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.recorded import recorded
from kvhorizon.sim.workload.trace import Trace, limit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MOST_REQUESTS = 4000  # the first of a trace: enough to see by
WARM_UP_SHARE = 0.1  # of them, not scored
HORIZON_TOKENS = 256
STEPS = np.concatenate([[0.0], sample_steps(HORIZON_TOKENS, 24)])  # (K,)
CHANCES = (0.01, 0.05, 0.2)
GAP_LOOKS = 8  # seconds, a little more than the horizon lasts: a batch is known when the next begins
LEAST_BATCH = 4  # requests


@dataclass(frozen=True, slots=True)
class Reliability:
    """`pit` (n,) of the requests scored; of `batches`, the share (chances,) whose peak exceeded the quantile."""

    pit: FloatArray
    pinball_tokens: float
    batches: int
    exceeded: FloatArray

    def coverage(self, share: float) -> float:
        """Share of requests inside the central band that should hold `share`."""
        return float((np.abs(self.pit - 0.5) <= 0.5 * share).mean())


class _Follower:
    """A forecast as `models.forecast.prequential` drives one; looks at batches on the way."""

    def __init__(self, forecast: Forecast, trace: Trace, limits: IntArray, block_size: int) -> None:
        self.exceeded: list[list[bool]] = []
        self._forecast, self._trace, self._limits, self._block_size = forecast, trace, limits, block_size
        self._ends = finish_times(trace.arrival_s, trace.output_tokens)
        self._peaks = PeakScores()
        self._looks = 0

    def learn(self, finished: IntArray) -> None:
        """See `Forecaster.learn`."""
        self._forecast.learn(finished, self._trace.output_tokens[finished], float(self._ends[finished[-1]]))

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """See `Forecaster.watch`."""
        self._forecast.watch(running, generated)
        self._looks += 1
        if self._looks % GAP_LOOKS == 0 and len(running) >= LEAST_BATCH:
            self._batch(running, generated)

    def curve(self, request: int) -> tuple[FloatArray, float]:
        """See `Forecaster.curve`."""
        curves = self._forecast.curves
        return curves.survival[curves.curve[request]], float(curves.scale[request])

    def _batch(self, running: IntArray, generated: IntArray) -> None:
        held = self._trace.prompt_tokens[running] + generated
        alive, mean, variance = np.zeros((3, len(running), len(STEPS)))
        survival_profile(self._forecast.curves, running, generated, self._limits[running], STEPS, 1.0, alive)
        nothing = np.zeros(len(running))
        block_profile(alive, held, nothing, Growth(STEPS, 1.0, self._block_size, np.inf), mean, variance)
        total, deviation = mean.sum(axis=0), np.sqrt(variance.sum(axis=0))
        runs = (self._trace.output_tokens[running] - generated)[:, None] > STEPS
        peak = float((np.ceil((held[:, None] + STEPS) / self._block_size) * runs).sum(axis=0).max())
        promised = [peak_at(total, deviation, self._peaks.z(chance)) for chance in CHANCES]
        self.exceeded.append([peak > most + 1e-6 for most in promised])
        self._peaks.learn(score_of(total, deviation, peak))


def reliability(trace: Trace, spec: str, seed: int, setup: Setup) -> Reliability | None:
    """How the forecast `spec` does on a trace; None where there is nothing to see: few requests, or known lengths."""
    some = limit(trace, MOST_REQUESTS)
    first = int(WARM_UP_SHARE * len(some))
    limits = np.clip(setup.facts.max_model_len - some.prompt_tokens, 1, setup.output_limit_tokens())
    forecast = make_forecast(
        spec,
        prompt_tokens=some.prompt_tokens,
        key=some.key,
        output_limit=limits,
        true_output_tokens=some.output_tokens,
        seed=seed,
        recorded=recorded(some) if spec.startswith("learned") else None,
    )
    if len(some) - first < 20 or (forecast.curves.curve == EXACT).any():
        return None
    follower = _Follower(forecast, some, limits, setup.facts.block_size)
    scores: Scores = score(some.arrival_s, some.output_tokens, follower, first, seed)
    exceeded = np.array(follower.exceeded, dtype=np.bool_).reshape(-1, len(CHANCES))
    shares = exceeded.mean(axis=0) if len(exceeded) else np.full(len(CHANCES), np.nan)
    return Reliability(scores.pit, float(scores.pinball.mean()), len(exceeded), shares)
