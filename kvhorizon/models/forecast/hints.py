"""Clients' hints of output length, trusted as far as their source deserves.

A hint is a number of tokens, or a range (its number is the geometric mean). What is learned per source is the
distribution of length / hint: its median is the source's bias, its width the source's spread. It is a length history
of its own, in units of the hint, so all that holds of histories holds of it: running requests count, evidence shrinks
the special to the general (all sources, source, source and width of its ranges). Whether a source's hints are used at
all is decided by what they are worth: the discounted log score of the half octave around each length, under the hint's
curve and under the history's; until hints have earned it by being better, or lost it, they are `HEAD_START` ahead. A
client that lies at random soon counts for nothing; one that lies by a constant factor is simply corrected.
A hint that is a class ("title", "report") is a key of the history instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.bins import UNIT_TOKENS
from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.lognormal import LogNormalPrior
from kvhorizon.models.forecast.scoring import survival_at

RATIO_UNIT = 4096.0  # length in the ratio's history of a request that is as long as its hint
PRIOR = LogNormalPrior(RATIO_UNIT, 0.7, 4.0)
HEAD_START = 2.0  # [nats]
FADE = 0.98  # of a source's score per request
MOST = 3.0  # nats that one request may count
MOST_SOURCES = 4096
LEAST_MASS = 1e-4

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def number_of(low: FloatArray, high: FloatArray) -> FloatArray:
    """The number (n,) that ranges stand for, their geometric mean [tokens]."""
    number: FloatArray = np.sqrt(np.maximum(low, 1.0) * np.maximum(high, 1.0))
    return number


def hint_chain(source: IntArray, low: FloatArray, high: FloatArray) -> IntArray:
    """Keys (n, 2) of hints' ratios: their source; source and width of the range in half octaves."""
    width = np.clip(np.round(2.0 * np.log2(np.maximum(high, 1.0) / np.maximum(low, 1.0))), 0, 31).astype(np.int64)
    return np.stack([-1 - source, 32 * source + width], axis=1)


@counting
def half_octave_score(survival, rows, scales, lengths, out):  # type: ignore[no-untyped-def]
    """Write to `out` (n,) the log of the mass that curves give the half octave around each length."""
    for i in range(len(rows)):
        table, x = survival[rows[i]], lengths[i] / scales[i]
        mass = survival_at(table, x * 2.0**-0.25) - survival_at(table, x * 2.0**0.25)
        out[i] = np.log(max(mass, LEAST_MASS))


class Hints:
    """What hints of each source are worth, and their curves: `ratios` has them, in units of the hint."""

    def __init__(self, rows: int = 32) -> None:
        self.ratios = LengthHistory(rows, PRIOR)
        self.version = 0  # counts the changes of which source is trusted
        self._worth: dict[int, float] = {}  # of a source: log score ahead of the history's [nats]

    def trusted(self, source: IntArray) -> NDArray[np.bool_]:
        """Whether the hints of (n,) sources are better than the history."""
        return np.array([self._worth.get(one, HEAD_START) > 0.0 for one in source.tolist()], dtype=np.bool_)

    def sources(self) -> IntArray:
        """(k,) sources whose hints have been judged, those judged last at the end."""
        return np.array(list(self._worth), dtype=np.int64)

    def scale(self, hint_tokens: FloatArray) -> FloatArray:
        """Tokens per unit of the ratios' curves (n,), for hints [tokens]."""
        return UNIT_TOKENS / RATIO_UNIT * np.maximum(hint_tokens, 1.0)

    def learn(
        self,
        source: IntArray,
        chain: IntArray,
        hint: FloatArray,
        lengths: IntArray,
        plain: FloatArray,
        capped: NDArray[np.bool_] | None = None,
    ) -> bool:
        """Take in n finished requests; True if a curve or a source's trust changed.

        `plain` (n,) is `half_octave_score` of the history's curves. `capped` (n,) marks those that a limit ended: they
        were at least so long, and say nothing of what the source is worth.
        """
        own = np.zeros(len(lengths))
        half_octave_score(self.ratios.survival, self.ratios.rows_of(chain), self.scale(hint), lengths, own)
        before = self.trusted(source)
        known = np.ones(len(lengths), np.bool_) if capped is None else ~capped
        for one, ahead in zip(source[known].tolist(), np.clip(own - plain, -MOST, MOST)[known].tolist(), strict=True):
            worth = FADE * self._worth.pop(one, HEAD_START) + ahead
            self._worth[one] = worth
            if len(self._worth) > MOST_SOURCES:
                self._worth.pop(next(iter(self._worth)))
        turned = bool((before != self.trusted(source)).any())
        self.version += turned
        return self.ratios.learn(chain, in_hints(lengths, hint), capped) or turned

    def watch(self, chain: IntArray, hint: FloatArray, generated: IntArray) -> None:
        """Take in the n requests with hints that run now."""
        self.ratios.watch(chain, in_hints(generated, hint))


def in_hints(tokens: IntArray, hint: FloatArray) -> IntArray:
    """Lengths (n,) as the ratios' history counts them; 0 stays 0."""
    return np.ceil(tokens * RATIO_UNIT / np.maximum(hint, 1.0)).astype(np.int64)
