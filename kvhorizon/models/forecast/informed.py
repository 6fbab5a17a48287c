"""Forecasts of a trace's requests from more than their history: clients' hints, a learned model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.bins import UNIT_TOKENS
from kvhorizon.models.forecast.hints import Hints, half_octave_score, hint_chain
from kvhorizon.models.forecast.history.guarded import GuardedHistory
from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.learned.features import Recorded, features_of
from kvhorizon.models.forecast.learned.learned import LearnedModel
from kvhorizon.models.forecast.survival import Curves

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class KeyedForecast:
    """Curves of a history for requests whose chains of keys (N, levels) are known."""

    def __init__(self, history: LengthHistory, chains: IntArray, output_limit: IntArray | None = None) -> None:
        self.version = 0
        self.history = history
        self._chains, self._limit = chains, output_limit
        _, first, self._which = np.unique(chains, axis=0, return_index=True, return_inverse=True)
        self._distinct = chains[first]
        self._mapping_version = -1
        size = len(chains)
        rows = np.zeros(size, dtype=np.int32)
        self.curves = Curves(history.survival, history.residual, rows, np.full(size, UNIT_TOKENS))
        self._remap()

    def learn(self, finished: IntArray, output_tokens: IntArray, now_s: float) -> bool:
        """See `Forecast.learn`; a request that gave all it was allowed to is known to be at least so long."""
        cut = None if self._limit is None else output_tokens >= self._limit[finished]
        if not self.history.learn(self._chains[finished], output_tokens, cut):
            return False
        self._remap()
        self.version += 1
        return True

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """See `Forecast.watch`."""
        self.history.watch(self._chains[running], generated)
        self._remap()
        self.version += 1

    def _remap(self) -> None:
        if self._mapping_version != self.history.mapping_version:
            self._mapping_version = self.history.mapping_version
            self.curves.curve[:] = self.history.rows_of(self._distinct)[self._which.ravel()]


def learned_forecast(model: LearnedModel, recorded: Recorded, output_limit: IntArray | None = None) -> KeyedForecast:
    """The groups that a model sorts the requests into, with the lengths it has of them to begin with."""
    history = GuardedHistory(128)
    seeds = model.seeds
    history.seed(model.keys_of(seeds[:, 0], np.zeros(len(seeds), np.int64)), seeds[:, 1])
    features = features_of(model.inputs.only(recorded), model.known)
    return KeyedForecast(history, model.keys(features, recorded.tenant), output_limit)


class HintForecast:
    """Hints where their source has earned it, the history elsewhere; the tables of both stand one above the other."""

    def __init__(self, plain: KeyedForecast, source: IntArray, low: FloatArray, high: FloatArray) -> None:
        self.version = 0
        self.hints = Hints()
        self._plain, self._source = plain, source
        self._chain = hint_chain(source, low, high)
        self._hint = np.sqrt(np.maximum(low, 1.0) * np.maximum(high, 1.0))
        tables = (plain.history, self.hints.ratios)
        self.curves = Curves(
            np.concatenate([one.survival for one in tables]),
            np.concatenate([one.residual for one in tables]),
            plain.curves.curve.copy(),
            plain.curves.scale.copy(),
        )
        self._join()

    def learn(self, finished: IntArray, output_tokens: IntArray, now_s: float) -> bool:
        """See `Forecast.learn`."""
        score = np.zeros(len(finished))
        curves = self._plain.curves
        half_octave_score(curves.survival, curves.curve[finished], curves.scale[finished], output_tokens, score)
        changed = self._plain.learn(finished, output_tokens, now_s)
        source, chain, hint = self._source[finished], self._chain[finished], self._hint[finished]
        changed |= self.hints.learn(source, chain, hint, output_tokens, score)
        if changed:
            self._join()
            self.version += 1
        return changed

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """See `Forecast.watch`."""
        self._plain.watch(running, generated)
        self.hints.watch(self._chain[running], self._hint[running], generated)
        self._join()
        self.version += 1

    def _join(self) -> None:
        plain, ratios = self._plain, self.hints.ratios
        rows = len(plain.history.survival)
        for joined, one, other in (
            (self.curves.survival, plain.history.survival, ratios.survival),
            (self.curves.residual, plain.history.residual, ratios.residual),
        ):
            joined[:rows], joined[rows:] = one, other
        sources, which = np.unique(self._source, return_inverse=True)
        trusted = self.hints.trusted(sources)[which]
        ratio_rows = rows + ratios.rows_of(self._chain)
        self.curves.curve[:] = np.where(trusted, ratio_rows, plain.curves.curve)
        self.curves.scale[:] = np.where(trusted, self.hints.scale(self._hint), plain.curves.scale)
