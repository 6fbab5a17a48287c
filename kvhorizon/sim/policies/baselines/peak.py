"""The future peak of a batch's memory, were no other admitted to it.

Sorted by remaining output, descending, the i-th request (from 1) ends when i are left, so

    peak = max_i (remaining_i · i + Σ_{j ≤ i} context_j)                                    [tokens]

Source: LightLLM's past-future scheduler (ASPLOS 2025; `req_queue/chunked_prefill/impl.py`). That it fits at every
predicted completion time is MC-SF's test (Jaillet et al., arXiv 2502.07115). With lower bounds of the outputs in place
of predictions it is A_min's (Chen, Ye & Zhou, arXiv 2508.14544).
"""

import math

import numpy as np

from kvhorizon.compiled.compiler import compiled, inside, making_arrays
from kvhorizon.models.forecast.survival import (
    EXACT,
    GRID_OCTAVES_BELOW_ONE,
    GRID_PER_OCTAVE,
    GRID_POINTS,
    mean_remaining,
    survive,
)
from kvhorizon.sim.engine.arrays import RUNNING, STEPS
from kvhorizon.sim.engine.step import known_tokens
from kvhorizon.sim.policies.baselines.codes import BOUND_PEAK, SAMPLED_PEAK
from kvhorizon.sim.policies.baselines.memory import PEAK_SIZE, READY

UNLIMITED = 1 << 40


@compiled
def uniform(n, step):  # type: ignore[no-untyped-def]
    """A number in (0, 1) that looks random in both arguments (the finalizer of SplitMix64), so that replays repeat."""
    x = np.uint64(n) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(step) * np.uint64(0xD1B54A32D192ED03)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (float(x >> np.uint64(11)) + 0.5) / 9007199254740992.0


@inside
def quantile_remaining(curves, n, generated, u, limit):  # type: ignore[no-untyped-def]
    """Output to come [tokens] that request n exceeds with chance 1 − u, given what it has generated."""
    c = curves.curve[n]
    if c == EXACT:
        return mean_remaining(curves, n, generated, limit)
    table = curves.survival[c]
    alive = survive(curves, n, 0, float(generated), UNLIMITED) * (1.0 - u)
    low, high = 0, GRID_POINTS - 1
    while low < high:
        middle = (low + high) // 2
        if table[middle] > alive:
            low = middle + 1
        else:
            high = middle
    length = curves.scale[n] * 2.0 ** (low / GRID_PER_OCTAVE - GRID_OCTAVES_BELOW_ONE)
    return max(1.0, min(math.ceil(length) - generated, float(limit - generated)))


@inside
def output_bound(engine, curves, rules, n):  # type: ignore[no-untyped-def]
    """A_min's lower bound of request n's output [tokens]: as predicted when first seen, raised by what it has given."""
    columns, bound = engine.columns, rules.notes.bound
    if bound[n] == 0.0:
        bound[n] = quantile_remaining(curves, n, 0, rules.quantile, columns.limit[n])
    return max(bound[n], float(columns.generated[n]))


@inside
def assumed_remaining(engine, curves, rules, n):  # type: ignore[no-untyped-def]
    """Output to come as the policy assumes it [tokens]: drawn anew at each look, its lower bound, or the mean."""
    columns = engine.columns
    generated, limit = columns.generated[n], columns.limit[n]
    if rules.admission == SAMPLED_PEAK:
        return quantile_remaining(curves, n, generated, uniform(n, engine.counters[STEPS]), limit)
    if rules.admission == BOUND_PEAK:
        return max(output_bound(engine, curves, rules, n) - generated, 1.0)
    return mean_remaining(curves, n, generated, limit)


@inside
def insert(context, remaining, size, held, to_come):  # type: ignore[no-untyped-def]
    """Put a request in its place among `size`; returns the place."""
    place = size
    while place > 0 and remaining[place - 1] < to_come:
        context[place], remaining[place] = context[place - 1], remaining[place - 1]
        place -= 1
    context[place], remaining[place] = held, to_come
    return place


@inside
def take_out(context, remaining, size, place):  # type: ignore[no-untyped-def]
    """Undo `insert`: `size` counts the one that goes."""
    for i in range(place, size - 1):
        context[i], remaining[i] = context[i + 1], remaining[i + 1]


@inside
def future_peak(context, remaining, size):  # type: ignore[no-untyped-def]
    """The peak [tokens] of the first `size` entries, sorted by remaining descending."""
    peak = 0.0
    held = 0.0
    for i in range(size):
        held += context[i]
        peak = max(peak, held + remaining[i] * (i + 1))
    return peak


@making_arrays
def build_peak(engine, curves, rules):  # type: ignore[no-untyped-def]
    """Sort the running batch, once for each look at the queue."""
    notes, lists = rules.notes, engine.lists
    size = engine.counters[RUNNING]
    context, remaining = np.zeros(size), np.zeros(size)
    for i in range(size):
        n = lists.running[i]
        context[i] = known_tokens(engine, n) + 0.5 * engine.limits.block_size
        remaining[i] = assumed_remaining(engine, curves, rules, n)
    order = np.argsort(-remaining)
    for i in range(size):
        notes.peak_context[i] = context[order[i]]
        notes.peak_remaining[i] = remaining[order[i]]
    notes.state[PEAK_SIZE] = size
    notes.state[READY] = 1.0


@inside
def peak_fits(engine, curves, rules, n):  # type: ignore[no-untyped-def]
    """Whether the peak with request n stays within the pool less the reserved share; if so, n is counted in."""
    notes, limits = rules.notes, engine.limits
    if notes.state[READY] == 0.0:
        build_peak(engine, curves, rules)
    size = int(notes.state[PEAK_SIZE])
    context, remaining = notes.peak_context, notes.peak_remaining
    held = known_tokens(engine, n) + 0.5 * limits.block_size
    place = insert(context, remaining, size, held, assumed_remaining(engine, curves, rules, n))
    fits = future_peak(context, remaining, size + 1) <= limits.total_blocks * limits.block_size * (1.0 - rules.reserved)
    if fits:
        notes.state[PEAK_SIZE] = size + 1
    else:
        take_out(context, remaining, size + 1, place)
    return fits
