"""Order keys of the waiting requests: the least is tried first.

* QUEUE: the engine's own queue, preempted requests in front (vLLM).
* RETRACTED_LAST: by arrival, but a preempted request rejoins at the end (SGLang appends it to `waiting_queue`).
* SHORTEST_REMAINING: predicted output still to come (SJF; Schrage's SRPT, Operations Research 1968).
* SHORTEST_TOTAL: predicted output in all, never updated by progress, except that a request which waited `starvation`
  steps goes first and keeps that rank for `quantum` steps after admission (vllm-ltr, Fu et al., NeurIPS 2024:
  `_get_opt_ordered_requests`; its scripts set 200 and 10).
* BEST_BATCH: batches of least F, each in order of predicted output (Sorted-F; see `batches`).
* LEAST_BOUND: the least lower bound of the output (A_min; see `peak`).
"""

import numpy as np

from kvhorizon.compiled.compiler import inside
from kvhorizon.models.forecast.survival import mean_remaining
from kvhorizon.sim.engine.arrays import STEPS
from kvhorizon.sim.policies.baselines.batches import form_batches
from kvhorizon.sim.policies.baselines.codes import (
    BEST_BATCH,
    LEAST_BOUND,
    RETRACTED_LAST,
    SHORTEST_REMAINING,
    SHORTEST_TOTAL,
)
from kvhorizon.sim.policies.baselines.memory import UNSEEN
from kvhorizon.sim.policies.baselines.peak import output_bound
from kvhorizon.sim.policies.view import collect_waiting

PROMOTED = -1e12  # below any length
HIDDEN = np.inf


@inside
def predicted_total(engine, curves, rules, n):  # type: ignore[no-untyped-def]
    """Predicted output as it was at arrival [tokens]; a promoted request ranks below all lengths."""
    total = mean_remaining(curves, n, 0, engine.columns.limit[n])
    return total + PROMOTED if rules.notes.promoted[n] else total


@inside
def promote_starving(engine, rules, n):  # type: ignore[no-untyped-def]
    """Promote request n if it has waited for `rules.starvation` steps."""
    notes, step = rules.notes, engine.counters[STEPS]
    if notes.since_step[n] == UNSEEN:
        notes.since_step[n] = step
    if step - notes.since_step[n] >= rules.starvation:
        notes.promoted[n] = 1


@inside
def order_key(engine, curves, rules, n, place):  # type: ignore[no-untyped-def]
    """Key of waiting request n, at `place` of the engine's queue."""
    if rules.order == RETRACTED_LAST:
        return max(engine.columns.arrival_s[n], rules.notes.queued_s[n])
    if rules.order == SHORTEST_REMAINING:
        return engine.columns.remaining[n]
    if rules.order == SHORTEST_TOTAL:
        promote_starving(engine, rules, n)
        return predicted_total(engine, curves, rules, n)
    if rules.order == BEST_BATCH:
        return rules.notes.batch_key[n]
    if rules.order == LEAST_BOUND:
        return output_bound(engine, curves, rules, n)
    return float(place)


@inside
def rank_queue(engine, curves, rules, scratch):  # type: ignore[no-untyped-def]
    """Fill `scratch.waiting` and `scratch.keys`; returns how many wait.

    Those evicted in this very step are hidden, or the engine would take them back at once.
    """
    size, _ = collect_waiting(engine, scratch.waiting)
    step = engine.counters[STEPS]
    if rules.order == BEST_BATCH:
        form_batches(engine, rules, scratch, size)
    for place in range(size):
        n = scratch.waiting[place]
        evicted_now = engine.columns.preemptions[n] > 0 and rules.notes.since_step[n] == step
        if rules.preempts and evicted_now:
            scratch.keys[place] = HIDDEN
        else:
            scratch.keys[place] = order_key(engine, curves, rules, n, place)
    return size
