"""Survival curves of output length: S(h | g), the chance to generate more than h further tokens after g.

A curve is tabulated over x = length / scale on a logarithmic grid, x_i = 2^(i / 16 − 16), i = 0 … 511, so one
table serves lengths of any scale. With F the table,

    S(h | g)  = F((g + h) / scale) / F(g / scale)                    [-]
    m(g)      = E[L − g | L > g] = scale · r(g / scale),             [tokens]
    r(x)      = ∫_x^∞ F(u) du / F(x)

Both are cut at the request's output limit. Curve number `EXACT` stands for a point mass at `scale`.
Source: textbook survival analysis (Kleinbaum & Klein, Survival Analysis, ch. 1).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import compiled, counting

GRID_POINTS = 512
GRID_PER_OCTAVE = 16.0
GRID_OCTAVES_BELOW_ONE = 16.0
EXACT = -1
_SMALLEST = 1e-9

FloatArray = NDArray[np.float64]


class Curves(NamedTuple):
    """Tables and which request uses which; compiled code takes it as one argument."""

    survival: FloatArray  # (C, G) chance that length / scale exceeds x_i
    residual: FloatArray  # (C, G) mean of length / scale − x_i given that it exceeds x_i
    curve: NDArray[np.int32]  # (N,) row of request n, or EXACT
    scale: FloatArray  # (N,) tokens per unit of x


def grid() -> FloatArray:
    """The points x_i, (G,), in units of the scale."""
    points: FloatArray = 2.0 ** (np.arange(GRID_POINTS) / GRID_PER_OCTAVE - GRID_OCTAVES_BELOW_ONE)
    return points


def residual_of(survival: FloatArray) -> FloatArray:
    """Mean residual life (G,) of a tabulated curve, by the trapezoid rule; constant hazard beyond its support."""
    x = grid()
    areas = 0.5 * (survival[1:] + survival[:-1]) * np.diff(x)
    tail = np.concatenate([np.cumsum(areas[::-1])[::-1], [0.0]])
    alive = survival > _SMALLEST
    residual = np.where(alive, tail / np.maximum(survival, _SMALLEST), 0.0)
    if not alive.all():
        end = int(np.argmin(alive))
        residual[end:] = max(residual[end - 1], 1e-3 * x[end - 1]) if end > 0 else x[0]
    return residual


@counting
def _lognormal(x, log_sigma, median):  # type: ignore[no-untyped-def]
    curve = np.empty(x.size)
    for i in range(x.size):
        curve[i] = 0.5 * math.erfc(math.log(x[i] / median) / (log_sigma * math.sqrt(2.0)))
    return curve


def lognormal_curve(log_sigma: float, median: float = 1.0) -> FloatArray:
    """Survival (G,) of a log-normal length with that `median`, in units of the scale.

    `log_sigma` > 0 is the standard deviation of its log.
    """
    curve: FloatArray = _lognormal(grid(), float(log_sigma), float(median))
    return curve


def empirical_curve(lengths: NDArray[Any]) -> FloatArray:
    """Survival (G,) of the (n,) lengths seen, n >= 1, in units of the scale: the share that exceeds x_i."""
    ordered = np.sort(lengths).astype(np.float64)
    exceed = len(ordered) - np.searchsorted(ordered, grid(), side="right")
    curve: FloatArray = exceed / len(ordered)
    return curve


@compiled
def _interpolate(table, x):  # type: ignore[no-untyped-def]
    if x <= 0.0:
        return table[0]
    position = (math.log2(x) + GRID_OCTAVES_BELOW_ONE) * GRID_PER_OCTAVE
    if position <= 0.0:
        return table[0]
    if position >= GRID_POINTS - 1:
        return table[GRID_POINTS - 1]
    i = int(position)
    share = position - i
    return table[i] * (1.0 - share) + table[i + 1] * share


@compiled
def table_at(table, x):  # type: ignore[no-untyped-def]
    """A table (G,) between its grid points, at x = length / scale."""
    return _interpolate(table, x)


@compiled
def conditional(later, now):  # type: ignore[no-untyped-def]
    """S(later) / S(now) [-]; where a curve is flat, rounding may make the later value the larger one."""
    return min(later / now, 1.0)


@compiled
def survive(curves, n, generated, h, limit):  # type: ignore[no-untyped-def]
    """S(h | generated) of request n [-]; `generated`, `h`, `limit` in tokens."""
    if generated + h >= limit:
        return 0.0
    c = curves.curve[n]
    scale = curves.scale[n]
    if c == EXACT:
        return 1.0 if generated + h < scale else 0.0
    now = _interpolate(curves.survival[c], generated / scale)
    later = _interpolate(curves.survival[c], (generated + h) / scale)
    if now <= _SMALLEST:  # it outlived the curve: constant hazard of the last mean residual life
        return math.exp(-h / max(_interpolate(curves.residual[c], generated / scale) * scale, 1.0))
    return conditional(later, now)


@compiled
def survive_each(curves, n, generated, horizons, limit, out):  # type: ignore[no-untyped-def]
    """S(h | generated) of request n at each of the ascending `horizons` (H,), to `out` (H,); 0 once it is 0.

    The very values of `survive`, with what they share computed once.
    """
    out[:] = 0.0
    c = curves.curve[n]
    scale = curves.scale[n]
    if c == EXACT:
        for h in range(len(horizons)):
            if generated + horizons[h] >= limit or generated + horizons[h] >= scale:
                return
            out[h] = 1.0
        return
    table = curves.survival[c]
    now = _interpolate(table, generated / scale)
    outlived = now <= _SMALLEST
    mean = max(_interpolate(curves.residual[c], generated / scale) * scale, 1.0) if outlived else 0.0
    for h in range(len(horizons)):
        if generated + horizons[h] >= limit:
            return
        later = (generated + horizons[h]) / scale
        out[h] = math.exp(-horizons[h] / mean) if outlived else conditional(_interpolate(table, later), now)
        if out[h] <= 0.0:
            return


@compiled
def mean_remaining(curves, n, generated, limit):  # type: ignore[no-untyped-def]
    """E[output still to come | generated] of request n [tokens], at least 1 and at most limit − generated."""
    c = curves.curve[n]
    scale = curves.scale[n]
    remaining = scale - generated if c == EXACT else _interpolate(curves.residual[c], generated / scale) * scale
    return max(1.0, min(remaining, float(limit - generated)))
