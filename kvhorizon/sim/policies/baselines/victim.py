"""Victim scores: the running request with the greatest is given up first, the earlier in the running list if equal.

* LAST: the last of the running list (vLLM, first come first served).
* LEAST_COMPUTED: fewest tokens computed (vLLM pull request 53723, `preemption_victim="lcf"`).
* FEWEST_OUTPUT: fewest output tokens, among equals the longest prompt (SGLang, `ScheduleBatch.retract_decode`).
* COST_AWARE: blocks freed per token, times the share of the largest output still to come (vLLM pull request 56897).
* FLOPS_PER_BLOCK: fewest FLOPs of recompute per byte freed.
* MOST_REMAINING: longest predicted remaining output. * LONGEST_TOTAL: longest predicted output (vllm-ltr).
* SMALLEST_BOUND: least lower bound of the output, among equals the last (A_min; its paper breaks ties at random).
* THRIFTY: little to compute again, not near its end, and much still to come; our own, for admissions that are not ours.
"""

import math

from kvhorizon.compiled.compiler import inside
from kvhorizon.models.forecast.survival import mean_remaining, survive
from kvhorizon.sim.engine.step import known_tokens
from kvhorizon.sim.policies.baselines.codes import (
    COST_AWARE,
    FEWEST_OUTPUT,
    FLOPS_PER_BLOCK,
    LEAST_COMPUTED,
    LONGEST_TOTAL,
    MOST_REMAINING,
    SMALLEST_BOUND,
    THRIFTY,
)
from kvhorizon.sim.policies.baselines.order import predicted_total
from kvhorizon.sim.policies.baselines.peak import output_bound

QUARTER = 0.25  # with g given and no more than g / 4 to come, 80 % are given
FAR_BELOW = 1e12  # scores are made positive by it


@inside
def cost_aware(blocks, tokens, generated, limit):  # type: ignore[no-untyped-def]
    """B / max(1, T) · (1 − O / max(1, M)) [blocks per token]."""
    return blocks / max(1, tokens) * (1.0 - generated / max(1, limit))


@inside
def recompute_flops(cost, tokens):  # type: ignore[no-untyped-def]
    """FLOPs of prefilling `tokens` tokens."""
    return cost.flops_per_token * tokens + cost.flops_per_pair * 0.5 * tokens * (tokens + 1)


@inside
def thrifty(context, remaining, unfinished):  # type: ignore[no-untyped-def]
    """R^½ · P⁴ / c^(5/4), with P the chance that less than 80 % of the output is given; exponents from seeds 100, 101.

    Where evicted requests return as soon as they fit, small contexts stop growth for the fewest FLOPs: a token freed
    costs the same everywhere, but many small requests grow faster than a large one.
    """
    return math.sqrt(remaining) * unfinished**4 / max(context, 1.0) ** 1.25


@inside
def baseline_score(engine, curves, rules, cost, n, place):  # type: ignore[no-untyped-def]
    """Score of running request n at `place` of the running list; always above −1."""
    columns = engine.columns
    if rules.victim == LEAST_COMPUTED:
        return FAR_BELOW - columns.computed[n]
    if rules.victim == FEWEST_OUTPUT:
        return FAR_BELOW - columns.generated[n] * 1e6 + min(columns.prompt[n], 999_999)
    if rules.victim == COST_AWARE:
        return cost_aware(columns.blocks[n], known_tokens(engine, n), columns.generated[n], columns.limit[n])
    if rules.victim == FLOPS_PER_BLOCK:
        return columns.blocks[n] / max(recompute_flops(cost, columns.computed[n]), 1.0)
    if rules.victim == MOST_REMAINING:
        return mean_remaining(curves, n, columns.generated[n], columns.limit[n])
    if rules.victim == LONGEST_TOTAL:
        return FAR_BELOW + predicted_total(engine, curves, rules, n)
    if rules.victim == THRIFTY:
        generated, limit = columns.generated[n], columns.limit[n]
        unfinished = survive(curves, n, generated, (generated + 1) * QUARTER, limit)
        remaining = mean_remaining(curves, n, generated, limit)
        return thrifty(float(known_tokens(engine, n)), remaining, unfinished)
    if rules.victim == SMALLEST_BOUND:
        return FAR_BELOW - output_bound(engine, curves, rules, n) + 1e-3 * place
    return float(place)
