"""Forecasts of output length for the requests of a trace, as curves that compiled code reads.

    history        learned online from the requests that finished; knows nothing of one request but its key
    hint:SIGMA     clients' hints whose log error has standard deviation SIGMA, which the forecast has to find out
    learned:FILE   a model of `kvhorizon train`
    learned        a model trained on the requests that have ended so far, once it beats the history
    noisy:SIGMA    a predictor whose log error has standard deviation SIGMA, combined with what was learned online
    oracle         the truth

`noisy` and `oracle` stand for predictors that one might have, and so may read the true lengths, and the clients of
`hint` do; `history` and `learned` never do.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.extras import require
from kvhorizon.models.forecast.history.chains import length_chain
from kvhorizon.models.forecast.history.guarded import GuardedHistory
from kvhorizon.models.forecast.informed import HintForecast, KeyedForecast, learned_forecast
from kvhorizon.models.forecast.learned.features import Recorded
from kvhorizon.models.forecast.learned.learned import load_model
from kvhorizon.models.forecast.learned.trained import TrainedForecast
from kvhorizon.models.forecast.lognormal import Window, fit_lognormal
from kvhorizon.models.forecast.survival import EXACT, GRID_POINTS, Curves, lognormal_curve, residual_of

SPECS = "must be history, oracle, noisy:SIGMA or hint:SIGMA with SIGMA > 0, learned or learned:FILE"
MATERIAL = 0.05  # change of the prior, in log length, that is worth new tables
UPDATE_EVERY = 64  # finished requests between two looks at the prior
PRIOR_WINDOW = 2000  # finished requests that the prior of a predictor remembers

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Forecast(Protocol):
    """Survival curves of all N requests; the arrays of `curves` stay the same objects and are updated in place."""

    curves: Curves
    version: int  # of the tables; grows with every update

    def learn(self, finished: IntArray, output_tokens: IntArray, now_s: float) -> bool:
        """Take in (n,) request indices in order of finish, and their lengths; True if anything in `curves` changed."""
        ...

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """Take in the (n,) requests that run now, with tokens generated so far; `curves` may change."""
        ...


def make_forecast(
    spec: str,
    *,
    prompt_tokens: IntArray,
    key: IntArray,
    output_limit: IntArray,
    true_output_tokens: IntArray,
    seed: int,
    recorded: Recorded | None = None,
) -> Forecast:
    """The forecast that `spec` names for N requests; all arrays are (N,). Raises InputError for an unknown spec.

    A learned forecast needs the requests as `recorded`; their lengths reach it only as they finish.
    """
    kind, _, argument = spec.partition(":")
    if spec == "history":
        return history_forecast(prompt_tokens, key, output_limit)
    if kind == "learned":
        if recorded is None:
            raise InputError("forecast", spec, "needs the recorded columns of the trace, which are not at hand here")
        if spec == kind:
            return TrainedForecast(history_forecast(prompt_tokens, key, output_limit), recorded, output_limit, seed)
        return learned_forecast(load_model(Path(argument)), recorded, output_limit)
    if kind == "hint":
        log_sigma = _log_sigma(spec, argument)
        noise = np.random.default_rng(seed).standard_normal(len(key))
        hint = np.maximum(1.0, true_output_tokens * np.exp(log_sigma * noise))
        return HintForecast(history_forecast(prompt_tokens, key, output_limit), key.astype(np.int64), hint, hint)
    if spec == "oracle":
        return OracleForecast(np.minimum(true_output_tokens, output_limit))
    if kind == "noisy":
        return NoisyForecast(true_output_tokens, _log_sigma(spec, argument), seed)
    raise InputError("forecast", spec, SPECS)


def check_spec(spec: str) -> None:
    """Raises InputError unless `spec` names a forecast."""
    kind, _, argument = spec.partition(":")
    if kind in ("noisy", "hint"):
        _log_sigma(spec, argument)
    elif spec == "learned":
        require("lightgbm", "train", "forecast", spec)
    elif kind == "learned":
        load_model(Path(argument))
    elif spec not in ("history", "oracle"):
        raise InputError("forecast", spec, SPECS)


def _log_sigma(spec: str, text: str) -> float:
    try:
        log_sigma = float(text)
    except ValueError:
        raise InputError("forecast", spec, SPECS) from None
    if not (math.isfinite(log_sigma) and log_sigma > 0.0):
        raise InputError("forecast", spec, SPECS)
    return log_sigma


def history_forecast(prompt_tokens: IntArray, tenant: IntArray, output_limit: IntArray) -> KeyedForecast:
    """What requests with the same keys did before."""
    return KeyedForecast(GuardedHistory(), length_chain(tenant, prompt_tokens), output_limit)


class NoisyForecast:
    """A predictor of log length with normal error, shrunk to the lengths seen so far.

    With y the prediction, σ² its variance, and the population's log length N(μ, τ²), a request's is
    N((τ² y + σ² μ) / (τ² + σ²), τ² σ² / (τ² + σ²)): the normal model (Gelman et al., Bayesian Data Analysis, § 2.5).
    """

    def __init__(self, true_output_tokens: IntArray, log_sigma: float, seed: int) -> None:
        count = len(true_output_tokens)
        noise = np.random.default_rng(seed).standard_normal(count)
        self.version = 0
        self._predicted = np.log(true_output_tokens) + log_sigma * noise  # (N,) log tokens
        self._variance = log_sigma**2
        self._window = Window(PRIOR_WINDOW)
        self._looked_at = 0
        self._prior = fit_lognormal(self._window.lengths())
        tables = np.zeros((2, 1, GRID_POINTS))
        self.curves = Curves(tables[0], tables[1], np.zeros(count, dtype=np.int32), np.ones(count))
        self._update()

    def learn(self, finished: IntArray, output_tokens: IntArray, now_s: float) -> bool:
        """See `Forecast.learn`."""
        self._window.extend(output_tokens)
        if self._window.seen - self._looked_at < min(UPDATE_EVERY, max(self._looked_at, 8)):
            return False
        self._looked_at = self._window.seen
        mean, log_sigma = fit_lognormal(self._window.lengths())
        known_mean, known_sigma = self._prior
        if abs(mean - known_mean) < MATERIAL and abs(math.log(log_sigma / known_sigma)) < MATERIAL:
            return False
        self._prior = (mean, log_sigma)
        self._update()
        self.version += 1
        return True

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """What a request has generated does not change what was predicted of it."""

    def _update(self) -> None:
        mean, log_sigma = self._prior
        prior_variance = log_sigma**2
        trust = prior_variance / (prior_variance + self._variance)
        np.exp(trust * self._predicted + (1.0 - trust) * mean, out=self.curves.scale)
        self.curves.survival[0] = lognormal_curve(math.sqrt(trust * self._variance))
        self.curves.residual[0] = residual_of(self.curves.survival[0])


class OracleForecast:
    """The true lengths."""

    def __init__(self, true_output_tokens: IntArray) -> None:
        count = len(true_output_tokens)
        self.version = 0
        tables = np.zeros((2, 1, GRID_POINTS))
        exact = np.full(count, EXACT, dtype=np.int32)
        self.curves = Curves(tables[0], tables[1], exact, true_output_tokens.astype(np.float64))

    def learn(self, finished: IntArray, output_tokens: IntArray, now_s: float) -> bool:
        """Nothing is left to learn."""
        return False

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """Nothing is left to learn."""
