"""The forecasts of a snapshot as the tables that compiled code reads."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.survival import EXACT, Curves, lognormal_curve, residual_of
from kvhorizon.state import ForecastKind, Snapshot

UNKNOWN_MEDIAN_TOKENS = 256.0
UNKNOWN_LOG_SIGMA = 1.4
SIGMA_STEP = 0.05  # log-normal spreads are rounded to this, so that few tables serve all points
_MOST_STEPS = 100  # beyond e^5 either way nothing is known anyway

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def resolve_curves(snapshot: Snapshot) -> Curves:
    """Tables and the row of each of the N requests: those sent and in use, then log-normal ones.

    Nothing known is a wide log-normal; a point without spread is `EXACT`.
    """
    requests = snapshot.requests
    unknown = requests.forecast_kind == ForecastKind.NONE
    point = requests.forecast_kind == ForecastKind.POINT
    sent = requests.forecast_kind == ForecastKind.CURVE
    sigma = np.where(unknown, UNKNOWN_LOG_SIGMA, requests.forecast_log_sigma)
    spread = unknown | (point & (sigma > 0.0))
    steps = np.clip(np.rint(sigma / SIGMA_STEP), 1, _MOST_STEPS).astype(np.int64)
    used, widths = _distinct(requests.forecast_curve[sent]), _distinct(steps[spread])
    curve = np.full(len(requests), EXACT, np.int32)
    curve[sent] = np.searchsorted(used, requests.forecast_curve[sent])
    curve[spread] = len(used) + np.searchsorted(widths, steps[spread])
    tables = [(snapshot.curves[row], _residual(snapshot.curves[row].tobytes())) for row in used]
    tables += [_lognormal(int(width)) for width in widths]
    tables = tables or [_lognormal(1)]  # compiled code wants a row, even if nothing reads it
    scale = np.where(unknown, UNKNOWN_MEDIAN_TOKENS, requests.forecast_scale)
    return Curves(
        survival=np.stack([survival for survival, _ in tables]),
        residual=np.stack([residual for _, residual in tables]),
        curve=curve,
        scale=np.maximum(scale, 1e-6),
    )


def _distinct(values: IntArray) -> IntArray:
    """The different values (n,), all >= 0 and not many, ascending."""
    return np.flatnonzero(np.bincount(values))


@lru_cache(maxsize=_MOST_STEPS)
def _residual(survival: bytes) -> FloatArray:
    """Mean residual life (G,) of a curve, which stays the same over many plans."""
    return residual_of(np.frombuffer(survival))


@lru_cache(maxsize=_MOST_STEPS)
def _lognormal(steps: int) -> tuple[FloatArray, FloatArray]:
    """Survival and mean residual life (G,) of a log-normal of median 1 and spread `steps`·SIGMA_STEP."""
    curve = lognormal_curve(steps * SIGMA_STEP)
    return curve, residual_of(curve)
