"""The peak of a batch's KV: how likely it is to exceed what is there, and the correction that experience gives.

The batch's blocks at t have mean m(t) and deviation s(t), sums over its requests (`models.forecast.growth`). Its peak
stays below q(z) = max_t [m(t) + z · s(t)] with some probability that grows with z. Were requests independent and the
sum normal at one decisive t, z = Φ⁻¹(1 − p) would be exceeded with probability p. They are not: lengths err together
when the world shifts, sums of few long requests are skewed, and a maximum exceeds each of its parts. So z is learned:
each batch watched to the end of its horizon gives the z* that would just have held its peak,

    z* = min { z : q(z) >= peak },      z(p) = the (1 − p) quantile of the z* seen

older batches fading. That is conformal prediction with z* as the score (Vovk, Gammerman & Shafer, "Algorithmic
learning in a random world", 2005). A normal distribution, at first the standard one, then with the moments of the z*
seen, is mixed in as if it were `PRIOR_STRENGTH` batches: it speaks where few have been seen, as it must for small p.
Where errors go together the z* spread more than one would expect of independent ones; no correlation is assumed.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PRIOR_STRENGTH = 10.0  # batches
FADE = 0.998  # of a batch's weight, per batch seen later
MEMORY = 1024  # batches
Z_MOST = 12.0
Z_LEAST = -2.0  # below it a score says no more than that the batch hardly grew


def peak_at(mean: FloatArray, deviation: FloatArray, z: float) -> float:
    """q(z) [blocks] of a batch, from its (K,) mean and deviation [blocks]."""
    return float((mean + z * deviation).max())


def score_of(mean: FloatArray, deviation: FloatArray, peak: float) -> float:
    """z* of a batch whose peak was seen: each t needs (peak − m) / s at least, and the least of these suffices."""
    spread = deviation > 1e-9
    if (mean[~spread] >= peak).any():
        return Z_LEAST
    needed = (peak - mean[spread]) / deviation[spread]
    return float(np.clip(needed.min(initial=Z_MOST), Z_LEAST, Z_MOST))


class PeakScores:
    """The z* of the batches seen, and the z that a probability of overflow asks for."""

    def __init__(self) -> None:
        self._scores = np.zeros(MEMORY)
        self.seen = 0

    def learn(self, score: float) -> None:
        """Take in the z* of a batch."""
        self._scores[self.seen % MEMORY] = score
        self.seen += 1

    def z(self, overflow: float) -> float:
        """z(p) for a probability of overflow p in (0, 1)."""
        size = min(self.seen, MEMORY)
        newest_first = self._scores[(self.seen - 1 - np.arange(size)) % MEMORY]
        order = np.argsort(-newest_first, kind="stable")
        scores, weights = newest_first[order], (FADE ** np.arange(size))[order]
        share = PRIOR_STRENGTH / (PRIOR_STRENGTH + weights.sum())
        beyond = np.concatenate([[0.0], np.cumsum(weights)]) / (PRIOR_STRENGTH + weights.sum())
        return _crossing(scores, beyond, share, self._normal(newest_first), overflow)

    def spread(self) -> float:
        """Deviation of the z* kept above their mean, shrunk to 1: of independent normal errors at one decisive step."""
        return self._normal(self._scores[: min(self.seen, MEMORY)]).stdev

    def _normal(self, scores: FloatArray) -> NormalDist:
        mean = float(scores.sum()) / (PRIOR_STRENGTH + len(scores))
        above = scores[scores > mean] - mean  # overflow is a matter of the upper side
        squares = PRIOR_STRENGTH + float((above**2).sum())
        return NormalDist(mean, (squares / (PRIOR_STRENGTH + len(above))) ** 0.5)


def _crossing(scores: FloatArray, beyond: FloatArray, share: float, prior: NormalDist, overflow: float) -> float:
    """Where the mixture of the prior (`share`) and the scores, in descending order, leaves `overflow` beyond."""
    low, high = Z_LEAST, Z_MOST
    for _ in range(40):
        z = 0.5 * (low + high)
        seen = beyond[int(np.searchsorted(-scores, -z, side="left"))]
        if share * (1.0 - prior.cdf(z)) + seen > overflow:
            low = z
        else:
            high = z
    return high
