"""Log-normal lengths: the belief before evidence, and its posterior."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
