"""What finished requests teach about output lengths: survival curves per key, learned online.

A key names requests alike (tenant and class of prompt length). Its curve is an empirical distribution over a sliding
window, shrunk to that of all keys, which in turn is shrunk to a log-normal fitted to the same window:

    S_key    = (n_key · Ŝ_key + K · S_global) / (n_key + K)
    S_global = (n · Ŝ + B · LogNormal(μ, σ)) / (n + B)

This is the predictive distribution of a Dirichlet process with base measure S_global or the log-normal (Ferguson,
"A Bayesian analysis of some nonparametric problems", 1973). μ and σ² are themselves posterior means under a wide prior
(normal-inverse-gamma; Gelman et al., Bayesian Data Analysis, § 3.3), so that a start without evidence is conservative,
and the log-normal continues the tail beyond the longest request seen. Requests cut at their output limit count as
finished there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.survival import GRID_POINTS, empirical_curve, lognormal_curve, residual_of

UNIT_TOKENS = 16.0  # scale of the curves: the grid then ends at a million tokens
GLOBAL_WINDOW = 2000  # finished requests that the curve of all keys remembers
KEY_WINDOW = 500
KEY_STRENGTH = 32.0  # K: finished requests that the global curve weighs against a key's own
BASE_STRENGTH = 8.0  # B: likewise the log-normal against the global window
REBUILD_EVERY = 64  # finished requests between two versions of a curve, once it is old
FIRST_REBUILD = 8
KEYS_PER_ROW = 4  # keys remembered, with a curve or not, per row of the tables

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class LogNormalPrior(NamedTuple):
    """Belief about lengths before evidence; `strength` is its weight in requests."""

    median_tokens: float = 512.0
    log_sigma: float = 1.4
    strength: float = 4.0


DEFAULT_PRIOR = LogNormalPrior()


def fit_lognormal(lengths: IntArray, prior: LogNormalPrior = DEFAULT_PRIOR) -> tuple[float, float]:
    """Posterior mean of log length and of its standard deviation, from (n,) lengths [tokens] >= 1; n may be 0."""
    count, mean = len(lengths), math.log(prior.median_tokens)
    if count == 0:
        return mean, prior.log_sigma
    logs = np.log(lengths)
    total = prior.strength + count
    shift = float(logs.mean()) - mean
    squares = prior.strength * prior.log_sigma**2 + count * float(logs.var())
    squares += prior.strength * count / total * shift**2
    return mean + count / total * shift, math.sqrt(squares / total)


class Window:
    """The last `capacity` lengths, in no particular order."""

    def __init__(self, capacity: int) -> None:
        self._kept = np.zeros(capacity, dtype=np.int64)
        self.seen = 0

    def extend(self, lengths: IntArray) -> None:
        """Append (n,) lengths [tokens]."""
        newest = lengths[-len(self._kept) :]
        first = self.seen + len(lengths) - len(newest)
        self._kept[np.arange(first, first + len(newest)) % len(self._kept)] = newest
        self.seen += len(lengths)

    def lengths(self) -> IntArray:
        """(min(seen, capacity),) lengths [tokens]."""
        return self._kept[: min(self.seen, len(self._kept))]


@dataclass(slots=True)
class _Learned:
    """A window, and when its curve was last built."""

    window: Window
    row: int  # of the tables; GLOBAL_ROW while it has none of its own
    built_at: int = 0  # `window.seen` at that time

    def due(self) -> bool:
        wait = min(max(self.built_at, FIRST_REBUILD), REBUILD_EVERY)
        return self.window.seen - self.built_at >= wait


GLOBAL_ROW = 0


class LengthHistory:
    """Curves of output length, one table row per busy key; row 0 is of all keys and serves the rest.

    `survival` and `residual` are (rows, G) as `models.survival.Curves` wants them, in units of `UNIT_TOKENS`, and are
    updated in place. `mapping_version` counts the changes of which key has which row.
    """

    def __init__(self, rows: int = 64, prior: LogNormalPrior = DEFAULT_PRIOR) -> None:
        self.survival: FloatArray = np.zeros((rows, GRID_POINTS))
        self.residual: FloatArray = np.zeros((rows, GRID_POINTS))
        self.mapping_version = 0
        self._prior = prior
        self._all = _Learned(Window(GLOBAL_WINDOW), GLOBAL_ROW)
        self._keys: OrderedDict[int, _Learned] = OrderedDict()  # the key that finished last is last
        self._free_rows = list(range(rows - 1, GLOBAL_ROW, -1))
        self._build_global()

    def rows_of(self, keys: IntArray) -> NDArray[np.int32]:
        """Table row of each of (n,) keys."""
        found = (self._keys.get(key) for key in keys.tolist())
        return np.array([known.row if known else GLOBAL_ROW for known in found], dtype=np.int32)

    def learn(self, keys: IntArray, lengths: IntArray) -> bool:
        """Take in (n,) finished requests, in order of finish; True if a table changed."""
        self._all.window.extend(lengths)
        changed = self._all.due()
        if changed:
            self._build_global()
        for key in np.unique(keys).tolist():
            known = self._remember(key)
            known.window.extend(lengths[keys == key])
            if known.due():
                self._build_key(known)
                changed = True
        return changed

    def _remember(self, key: int) -> _Learned:
        known = self._keys.setdefault(key, _Learned(Window(KEY_WINDOW), GLOBAL_ROW))
        self._keys.move_to_end(key)
        if len(self._keys) > KEYS_PER_ROW * len(self.survival):
            _, forgotten = self._keys.popitem(last=False)
            if forgotten.row != GLOBAL_ROW:
                self._free_rows.append(forgotten.row)
                self.mapping_version += 1
        return known

    def _build_global(self) -> None:
        lengths = self._all.window.lengths()
        mean, log_sigma = fit_lognormal(lengths, self._prior)
        base = lognormal_curve(log_sigma, math.exp(mean) / UNIT_TOKENS)
        self._store(self._all, _blend(lengths, base, BASE_STRENGTH))

    def _build_key(self, known: _Learned) -> None:
        if known.row == GLOBAL_ROW and self._free_rows:
            known.row = self._free_rows.pop()
            self.mapping_version += 1
        if known.row != GLOBAL_ROW:
            self._store(known, _blend(known.window.lengths(), self.survival[GLOBAL_ROW], KEY_STRENGTH))

    def _store(self, known: _Learned, survival: FloatArray) -> None:
        self.survival[known.row] = survival
        self.residual[known.row] = residual_of(survival)
        known.built_at = known.window.seen


def _blend(lengths: IntArray, base: FloatArray, strength: float) -> FloatArray:
    """(G,) survival: the lengths' own, with `base` weighing as much as `strength` of them."""
    if len(lengths) == 0:
        return base
    own = empirical_curve(lengths / UNIT_TOKENS)
    blended: FloatArray = (len(lengths) * own + strength * base) / (len(lengths) + strength)
    return blended
