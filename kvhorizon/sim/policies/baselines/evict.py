"""Preemptive policies: before the step, waiting requests that rank above running ones take their place.

A plugin may do so in a live engine: it preempts the running request itself, ahead of the engine's own scheduling, and
hides it from that one call. The engine then sees free blocks and admits the better request.

Limited preemption: a request that has given a share `preemptible` of the output predicted at its arrival is let finish
(TRAIL, Shahout et al., arXiv 2410.01035).
"""

from kvhorizon.compiled.compiler import inside
from kvhorizon.models.forecast.survival import mean_remaining
from kvhorizon.sim.engine.arrays import FREE, NOW, RUNNING, STEPS, WAITING
from kvhorizon.sim.engine.blocks import blocks_for, would_free
from kvhorizon.sim.engine.step import blocks_wanted, known_tokens, next_chunk, preempt
from kvhorizon.sim.policies.baselines.codes import SHORTEST_TOTAL
from kvhorizon.sim.policies.baselines.memory import note_wait
from kvhorizon.sim.policies.baselines.order import HIDDEN, predicted_total, rank_queue
from kvhorizon.solver.heuristic.order import best_place


@inside
def running_key(engine, curves, rules, n):  # type: ignore[no-untyped-def]
    """Where running request n would stand in the order; −inf if it is not to be evicted."""
    columns = engine.columns
    generated = columns.generated[n]
    if columns.computed[n] + 1 < known_tokens(engine, n) or generated == 0:
        return -HIDDEN
    if generated >= rules.preemptible * mean_remaining(curves, n, 0, columns.limit[n]):
        return -HIDDEN
    if rules.order == SHORTEST_TOTAL:
        return predicted_total(engine, curves, rules, n)
    return mean_remaining(curves, n, generated, columns.limit[n])


@inside
def evict(engine, rules, place):  # type: ignore[no-untyped-def]
    """Preempt the request at `place` of the running list, keeping the others' order."""
    n = preempt(engine, place)
    note_wait(rules.notes, n, engine.columns.preemptions[n], engine.clock[NOW], engine.counters[STEPS])
    return n


@inside
def worst_running(engine, curves, rules, above):  # type: ignore[no-untyped-def]
    """(place of the running request with the greatest key > `above` or −1, blocks that all such hold)."""
    worst = -1
    greatest = above
    blocks = 0
    for i in range(engine.counters[RUNNING]):
        n = engine.lists.running[i]
        key = running_key(engine, curves, rules, n)
        if key > above:
            blocks += would_free(engine, engine.cache, n)
        if key > greatest:
            greatest = key
            worst = i
    return worst, blocks


@inside
def make_room(engine, curves, rules, key, wanted, claimed, seats):  # type: ignore[no-untyped-def]
    """Evict requests that rank below `key` until `wanted` blocks and a seat are free besides those claimed."""
    columns, count = engine.columns, engine.counters
    while True:
        lacking = wanted + claimed + blocks_wanted(engine) - count[FREE]
        seated = count[RUNNING] + seats < engine.limits.max_seqs
        if lacking <= 0 and seated:
            return True
        place, blocks = worst_running(engine, curves, rules, key)
        if place < 0 or blocks < lacking:
            return False
        n = evict(engine, rules, place)
        columns.remaining[n] = mean_remaining(curves, n, columns.generated[n], columns.limit[n])


@inside
def token_budget_left(engine):  # type: ignore[no-untyped-def]
    """Tokens of this step that the running requests will not take."""
    budget = engine.limits.max_tokens
    for i in range(engine.counters[RUNNING]):
        n = engine.lists.running[i]
        budget -= next_chunk(engine, n, engine.columns.computed[n], max(budget, 0))[1]
    return budget


@inside
def evict_for_better(engine, curves, rules, scratch):  # type: ignore[no-untyped-def]
    """Make room for the best of the queue, one after the other, while running requests rank below them."""
    count, limits = engine.counters, engine.limits
    if count[WAITING] == 0 or count[RUNNING] == 0:
        return
    size = rank_queue(engine, curves, rules, scratch)
    budget = token_budget_left(engine)
    claimed, seats = 0, 0
    while budget > 0:
        place = best_place(scratch, size)
        if place < 0:
            return
        n = scratch.waiting[place]
        wanted = blocks_for(known_tokens(engine, n), limits.block_size)
        if not make_room(engine, curves, rules, scratch.keys[place], wanted, claimed, seats):
            return
        scratch.keys[place] = HIDDEN
        claimed += wanted
        seats += 1
        budget -= known_tokens(engine, n)
