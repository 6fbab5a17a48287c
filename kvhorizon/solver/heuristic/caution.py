"""How much of its reserves the rule keeps: all where an eviction is dear, none where it costs no more than it brings.

Kept free, memory makes requests wait; used, it will now and then be taken back. Of the memory that a batch of n grows
by in a step, worth c = n / (mean context) requests, a share θ comes from evictions if nothing is kept, and that share
falls to its e-th part with each g steps of growth kept. Keeping x steps of growth costs c·x request·steps of waiting a
step and saves θ·c·L·(1 − exp(−x/g)), L being what an eviction costs in request·steps:

    L = (running + waiting) · (recompute of a mean context) / step + (the wait of the evicted)

The best x is g·ln(θ·L/g). Reserves were tuned where θ·L/g is `DEAR` or more; elsewhere they are scaled by the
logarithm.
"""

import math

from kvhorizon.compiled.compiler import compiled
from kvhorizon.solver.heuristic.footprint import own_tokens

AT_ONCE = 0.06  # θ / g [1 / step]
EVICTED_WAITS = 3.0  # steps until an evicted request runs again
DEAR = 80.0  # of an 8B model on its GPU without a prefix cache, some hundred requests running and waiting


@compiled
def caution(columns, rule, room, running, num_running, num_waiting):  # type: ignore[no-untyped-def]
    """Share of the reserves to keep [-], in [0, 1]; 1 where the rule does not price evictions."""
    if not rule.cached or num_running == 0:
        return 1.0
    own = 0.0
    for i in range(num_running):
        own += own_tokens(columns, running[i])
    recompute_steps = own / num_running * room.prefill_s_per_token / room.step_s
    loss = (num_running + num_waiting) * recompute_steps + EVICTED_WAITS
    return min(max(math.log(AT_ONCE * loss) / math.log(DEAR), 0.0), 1.0)
