"""The forecasts of a snapshot as tables that compiled code reads."""

from __future__ import annotations

import numpy as np

from kvhorizon.models.survival import EXACT, GRID_POINTS, Curves, lognormal_curve, residual_of
from kvhorizon.state import ForecastKind, Snapshot

UNKNOWN_MEDIAN_TOKENS = 256.0
UNKNOWN_LOG_SIGMA = 1.4
SIGMA_STEP = 0.05  # log-normal spreads are rounded to this, so that few tables serve all points


def resolve_curves(snapshot: Snapshot) -> Curves:
    """One table row per distinct forecast: those sent, then log-normal ones; nothing known is a wide log-normal."""
    requests = snapshot.requests
    kind, scale = requests.forecast_kind, requests.forecast_scale.copy()
    unknown = kind == ForecastKind.NONE
    sigma = np.where(unknown, UNKNOWN_LOG_SIGMA, requests.forecast_log_sigma)
    scale[unknown] = UNKNOWN_MEDIAN_TOKENS
    steps = np.maximum(np.rint(sigma / SIGMA_STEP).astype(np.int64), 1)
    curve = requests.forecast_curve.astype(np.int32)
    spread = unknown | ((kind == ForecastKind.POINT) & (sigma > 0.0))
    curve[(kind == ForecastKind.POINT) & ~spread] = EXACT
    sent = snapshot.curves if snapshot.curves.size else np.empty((0, GRID_POINTS))
    needed = np.unique(steps[spread])
    curve[spread] = len(sent) + np.searchsorted(needed, steps[spread])
    tables = np.vstack([sent, *(lognormal_curve(step * SIGMA_STEP)[None] for step in needed)])
    if not len(tables):
        tables = lognormal_curve(UNKNOWN_LOG_SIGMA)[None].copy()
    residual = np.stack([residual_of(table) for table in tables])
    return Curves(tables, residual, curve, np.maximum(scale, 1e-6))
