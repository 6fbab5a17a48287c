"""Survival from finished and still running requests: the product-limit estimate with a prior.

With D_b lengths that ended in bin b, C_b requests last seen there and still running (or cut by a cap), and a prior
curve S⁰ that weighs as much as K requests,

    Y_b = Σ_{i>=b} D_i + Σ_{i>b} C_i + ½ C_b                                       at risk in bin b
    h_b = (K (S⁰_{b−1} − S⁰_b) + D_b) / (K S⁰_{b−1} + Y_b),   S_b = Π_{i<=b} (1 − h_i)

Without C it is the mean of a Dirichlet process's posterior, (K S⁰ + n Ŝ) / (K + n); with it, of a beta process's
(Hjort, "Nonparametric Bayes estimators based on beta processes", Annals of Statistics 1990). K → 0 gives the
estimator of Kaplan & Meier (JASA 1958), the ½ is the actuarial correction for bins. Past the longest request the
hazard is the prior's.
"""

from __future__ import annotations

import math

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.bins import BINS, EDGES

LEAST = 1e-300


@counting
def product_limit(ended, running, prior, strength, alive):  # type: ignore[no-untyped-def]
    """Write S_b to `alive` (B,) from D, C and S⁰ (B,) and K > 0."""
    at_risk = 0.0
    for b in range(BINS):
        at_risk += ended[b] + running[b]
    now, before = 1.0, 1.0
    for b in range(BINS):
        weight = strength * before + at_risk - 0.5 * running[b]
        if weight > 1e-9:
            now *= max(0.0, 1.0 - (strength * (before - prior[b]) + ended[b]) / weight)
        else:
            now *= prior[b] / before if before > LEAST else 0.0
        alive[b] = now
        at_risk = max(0.0, at_risk - ended[b] - running[b])
        before = prior[b]


@counting
def log_normal_tail(ended, running, mean, log_sigma, prior_rate, prior_weight, alive):  # type: ignore[no-untyped-def]
    """Write to `alive` (B,) a log-normal whose last part is a Pareto tail of the rate seen:

        S(x) = S(u) (u / x)^α for x > u,   α = (w + #ended beyond u) / (w / α₀ + Σ_{beyond u} ln(x / u))

    u is where 5 % of those seen are left; w = `prior_weight` requests of rate α₀ = `prior_rate`. α is the estimator
    of Hill (Annals of Statistics 1975) with the running ones as censored.
    """
    for b in range(BINS):
        alive[b] = 0.5 * math.erfc((math.log(EDGES[b]) - mean) / (log_sigma * math.sqrt(2.0)))
    total = ended.sum() + running.sum()
    beyond, exposure, events, u = 0.0, prior_weight / prior_rate, prior_weight, BINS - 1
    for b in range(BINS - 1, 0, -1):
        if total <= 0.0 or beyond + ended[b] + running[b] > 0.05 * total:
            break
        beyond += ended[b] + running[b]
        events += ended[b]
        exposure += beyond * math.log(EDGES[b] / EDGES[b - 1])
        u = b - 1
    rate = events / exposure
    for b in range(u + 1, BINS):
        alive[b] = alive[u] * (EDGES[u] / EDGES[b]) ** rate
