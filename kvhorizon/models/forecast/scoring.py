"""How good a forecast curve was, once the length is known: pinball loss, probability integral transform, log score.

    pinball   mean over τ of max(τ (L − q_τ), (τ − 1) (L − q_τ))        [tokens]   (Koenker & Bassett, 1978)
    PIT       F(L − 1) + U · (F(L) − F(L − 1)), U uniform               [-]        uniform if calibrated
    log score ln (F(L) − F(L − 1))                                      [nats]

The PIT is randomised inside the step at L, since lengths are whole numbers (Czado, Gneiting & Held, "Predictive model
assessment for count data", Biometrics 2009).
"""

from __future__ import annotations

import math

import numpy as np

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.survival import GRID_OCTAVES_BELOW_ONE, GRID_PER_OCTAVE, GRID_POINTS

TAUS = np.arange(1, 20) / 20.0  # quantiles of the pinball loss
LEAST_MASS = 1e-9


@counting
def _x(i):  # type: ignore[no-untyped-def]
    return 2.0 ** (i / GRID_PER_OCTAVE - GRID_OCTAVES_BELOW_ONE)


@counting
def survival_at(table, x):  # type: ignore[no-untyped-def]
    """The curve `table` (G,) at x = length / scale, 1 at 0."""
    if x <= 0.0:
        return 1.0
    position = (math.log2(x) + GRID_OCTAVES_BELOW_ONE) * GRID_PER_OCTAVE
    if position <= 0.0:
        return 1.0
    if position >= GRID_POINTS - 1:
        return table[GRID_POINTS - 1]
    i = int(position)
    share = position - i
    return table[i] * (1.0 - share) + table[i + 1] * share


@counting
def quantile(table, scale, share):  # type: ignore[no-untyped-def]
    """Length below which `share` of the requests end [tokens]."""
    low, high = 0, GRID_POINTS - 1
    if table[high] > 1.0 - share:
        return scale * _x(high)
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle] > 1.0 - share:
            low = middle
        else:
            high = middle
    drop = table[low] - table[high]
    along = (table[low] - (1.0 - share)) / drop if drop > 0.0 else 1.0
    return scale * (_x(low) + min(max(along, 0.0), 1.0) * (_x(high) - _x(low)))


@counting
def score_length(table, scale, length, spread, taus):  # type: ignore[no-untyped-def]
    """Pinball loss, PIT and log score of a length [tokens]; `spread` in [0, 1) is the PIT's uniform draw."""
    loss = 0.0
    for tau in taus:
        error = length - math.ceil(quantile(table, scale, tau))
        loss += max(tau * error, (tau - 1.0) * error) / taus.size
    before = 1.0 - survival_at(table, (length - 1.0) / scale)
    after = max(before, 1.0 - survival_at(table, length / scale))
    return loss, before + spread * (after - before), math.log(max(after - before, LEAST_MASS))
