"""Sorted-F: batches by the metric F, from the best on (Wang, Ye & Zhou, arXiv 2508.06133).

A batch X of waiting requests, with prompts s and outputs o [tokens], is the better the smaller

    F(X) = Σ_{i ∈ X} o_i / |X|²        subject to    Σ_{i ∈ X} (s_i + o_i) ≤ pool

The paper forms the best batch, puts its requests in order of o, removes them, and goes on with the rest; the engine
then takes the sequence in order while memory fits at every predicted completion.

What it leaves open, and how it is closed here:

* Exact search is a dynamic program over the pool; for large queues the paper has heuristics. Here the best of the
  prefixes of the queue in order of o/ō + λ·(s + o)/(mean of s + o) for a few λ: with λ = 0 the least Σ o of each size,
  with large λ the largest number that fits.
* It is offline. Here batches are formed anew whenever a request arrives or is preempted, and when those formed are used
  up; for a preempted request, s is what it must prefill and o what is still to come.
* At most so many batches are formed at once; the requests behind them follow in order of o.
"""

import numpy as np

from kvhorizon.compiled.compiler import inside, making_arrays
from kvhorizon.sim.engine.arrays import ARRIVED, PREEMPTED
from kvhorizon.sim.engine.step import known_tokens
from kvhorizon.sim.policies.baselines.memory import EVENTS

TRADES = (0.0, 0.25, 1.0, 4.0, 64.0)  # λ
MOST_BATCHES = 4
BATCH = 1e9  # keys of one batch lie so far above those of the batch before it


@inside
def batch_metric(output_sum, size):  # type: ignore[no-untyped-def]
    """F of a batch [tokens]."""
    return output_sum / (size * size)


@inside
def best_prefix(order, prompt, output, pool):  # type: ignore[no-untyped-def]
    """(size, F) of the prefix of `order` with the least F among those that fit; all arrays (W,), tokens."""
    used, total = 0.0, 0.0
    best, least = 1, batch_metric(output[order[0]], 1)
    for i in range(len(order)):
        n = order[i]
        used += prompt[n] + output[n]
        total += output[n]
        if used > pool:
            break
        metric = batch_metric(total, i + 1)
        if metric < least:
            best, least = i + 1, metric
    return best, least


@making_arrays
def best_batch(prompt, output, pool):  # type: ignore[no-untyped-def]
    """Places of the batch with the least F found; prompt and output (W,), W >= 1."""
    size = prompt + output
    least = np.inf
    chosen = np.zeros(1, np.int64)
    for trade in TRADES:
        order = np.argsort(output / output.mean() + trade * size / size.mean(), kind="mergesort")
        many, metric = best_prefix(order, prompt, output, pool)
        if metric < least:
            least = metric
            chosen = order[:many].copy()
    return chosen


@making_arrays
def batch_keys(prompt, output, pool):  # type: ignore[no-untyped-def]
    """Key of each of W requests: its batch, then its output."""
    keys = MOST_BATCHES * BATCH + output
    left = np.arange(len(prompt))
    for batch in range(MOST_BATCHES):
        if len(left) == 0:
            break
        chosen = best_batch(prompt[left], output[left], pool)
        stays = np.ones(len(left), np.bool_)
        for i in chosen:
            stays[i] = False
            keys[left[i]] -= (MOST_BATCHES - batch) * BATCH
        left = left[stays]
    return keys


@making_arrays
def form_batches(engine, rules, scratch, size):  # type: ignore[no-untyped-def]
    """Key the `size` waiting requests of the scratch, where the batches formed before no longer hold."""
    notes, count, limits = rules.notes, engine.counters, engine.limits
    events = count[ARRIVED] + count[PREEMPTED]
    used_up = True
    for i in range(size):
        used_up = used_up and notes.batch_key[scratch.waiting[i]] >= MOST_BATCHES * BATCH
    if size == 0 or (events == notes.state[EVENTS] and not used_up):
        return
    notes.state[EVENTS] = events
    prompt, output = np.zeros(size), np.zeros(size)
    for i in range(size):
        n = scratch.waiting[i]
        prompt[i], output[i] = known_tokens(engine, n), max(engine.columns.remaining[n], 1.0)
    keys = batch_keys(prompt, output, float(limits.total_blocks * limits.block_size))
    for i in range(size):
        notes.batch_key[scratch.waiting[i]] = keys[i]
