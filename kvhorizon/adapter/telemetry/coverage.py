"""Whether forecasts of output length hold: each made when a request is admitted, and judged when it ends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kvhorizon.models.survival import grid
from kvhorizon.state import FloatArray

_OCTAVES = np.log2(grid())
_SHARES = np.array([0.9, 0.5, 0.1])  # of requests that exceed the quantile
BANDS = ("below_p10", "p10_p50", "p50_p90", "above_p90")
LIMIT = 65_536  # forecasts kept


class Judged(NamedTuple):
    """One forecast and its outcome."""

    band: str
    ratio: float  # output / median


def quantiles(curve: FloatArray, scale: float, limit: int) -> FloatArray:
    """(3,) p10, p50 and p90 of the output [tokens] by a survival curve (G,), at most `limit`."""
    octaves = np.interp(-_SHARES, -curve, _OCTAVES)
    found: FloatArray = np.minimum(scale * np.exp2(octaves), float(limit))
    return found


class Joined(NamedTuple):
    """What was known of a request when it began to run."""

    request_id: str
    survival: FloatArray  # (C, G) the tables of that moment
    curve: int  # row of them
    scale: float  # tokens per unit of the curve
    limit: int  # tokens


class Coverage:
    """`admitted`, then `ended` with the output seen; both are called beside the step."""

    def __init__(self) -> None:
        self._made: dict[str, FloatArray] = {}

    def admitted(self, one: Joined) -> None:
        """Forecast a request that has begun to run."""
        if len(self._made) < LIMIT:
            self._made[one.request_id] = quantiles(one.survival[one.curve], one.scale, one.limit)

    def ended(self, request_id: str, output_tokens: int, whole: bool) -> Judged | None:
        """The outcome, unless nothing was forecast or the request was cut off from outside (not `whole`)."""
        made = self._made.pop(request_id, None)
        if made is None or not whole:
            return None
        # a forecast cut at the limit is met by what ends there
        band = BANDS[int(np.searchsorted(made, output_tokens, side="left"))]
        return Judged(band, output_tokens / max(float(made[1]), 1.0))
