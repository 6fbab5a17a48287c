"""What a step of the engine computes: vLLM V1's `Scheduler.schedule`, as arrays. Then `execute` runs it.

Running requests come first, each given its next tokens within the token budget; where a block is lacking, the last of
the running list (of the least priority, where requests have one) is preempted, loses its KV and goes to the front of
the queue. Waiting requests are admitted only in a step that preempted no request, while their *whole* known sequence
(and the watermark, if anything runs) fits into free blocks and those found in the prefix cache. Source:
vllm/v1/core/sched/scheduler.py and kv_cache_manager.py, release 0.32.
"""

from kvhorizon.compiled.compiler import compiled, inside
from kvhorizon.sim.engine.arrays import (
    FREE,
    HEAD,
    NEAR_END,
    NOW,
    PREEMPTED,
    PREEMPTION_ROWS,
    RELOAD,
    RESTORED,
    RUNNING,
    WAITING,
)
from kvhorizon.sim.engine.async_scheduling import awaits_last, drop, is_owed, owe, tokens_under_way
from kvhorizon.sim.engine.blocks import blocks_for, fill, find, give_back, join, take
from kvhorizon.sim.engine.queue import goes_before, remove, return_to_queue

NEAR_END_SHARE = 0.8  # of the output: preemptions past it are counted apart


@inside
def known_tokens(engine, n):  # type: ignore[no-untyped-def]
    """Prompt and output so far of request n."""
    return engine.columns.prompt[n] + engine.columns.generated[n]


@inside
def next_chunk(engine, n, computed, budget):  # type: ignore[no-untyped-def]
    """(tokens scheduled, tokens charged to the budget) of request n if it now has `computed` tokens."""
    limits = engine.limits
    tokens = known_tokens(engine, n) + tokens_under_way(engine, n) - computed
    alone = engine.counters[RUNNING] + engine.counters[WAITING] <= 1  # no request to starve: no limit
    if 0 < limits.long_prefill_tokens < tokens and not alone:
        tokens = limits.long_prefill_tokens
    free_of_charge = 0
    if limits.free_recompute and engine.live.high_water[n] > computed:
        free_of_charge = min(tokens, engine.live.high_water[n] - computed)
    charged = min(tokens - free_of_charge, budget)
    return free_of_charge + charged, charged


@inside
def blocks_wanted(engine, first=0):  # type: ignore[no-untyped-def]
    """Blocks that the running requests from place `first` on will ask for in this step; those before only decode."""
    columns, lists, limits, count = engine.columns, engine.lists, engine.limits, engine.counters
    budget = limits.max_tokens - first
    wanted = 0
    for i in range(first, count[RUNNING]):
        if budget <= 0:
            break
        n = lists.running[i]
        if awaits_last(engine, n):
            continue
        tokens, charged = next_chunk(engine, n, columns.computed[n], budget)
        budget -= charged
        wanted += max(0, blocks_for(columns.computed[n] + tokens, limits.block_size) - columns.blocks[n])
    return wanted


@inside
def take_out(engine, place):  # type: ignore[no-untyped-def]
    """Remove the request at `place` of the running list, with its tokens of this step; returns it."""
    lists, count = engine.lists, engine.counters
    n = lists.running[place]
    count[RUNNING] -= 1
    for i in range(place, count[RUNNING]):
        lists.running[i] = lists.running[i + 1]
        lists.scheduled[i] = lists.scheduled[i + 1]
    return n


@inside
def preempt(engine, place):  # type: ignore[no-untyped-def]
    """Take the KV of the request at `place` of the running list away; returns the request."""
    columns, live, lists, count = engine.columns, engine.live, engine.lists, engine.counters
    n = take_out(engine, place)
    live.high_water[n] = max(live.high_water[n], columns.computed[n])
    owe(engine, n)
    give_back(engine, engine.cache, n)
    columns.computed[n] = 0
    columns.shared[n] = 0
    columns.out_of_order[n] = 0
    columns.preemptions[n] += 1
    if count[PREEMPTED] < PREEMPTION_ROWS:
        lists.preempted_at[count[PREEMPTED], 0] = engine.clock[NOW]
        lists.preempted_at[count[PREEMPTED], 1] = n
    count[PREEMPTED] += 1
    if columns.generated[n] >= NEAR_END_SHARE * live.output[n]:
        count[NEAR_END] += 1
    return_to_queue(engine, n)
    return n


@inside
def last_in_line(engine):  # type: ignore[no-untyped-def]
    """Place in the running list of the request to preempt: the last, or by priority the one that all go before."""
    running, count = engine.lists.running, engine.counters
    if not engine.limits.by_priority:
        return count[RUNNING] - 1
    worst = 0
    for i in range(1, count[RUNNING]):
        if goes_before(engine, running[worst], running[i]):
            worst = i
    return worst


@compiled
def schedule_running(engine, first=0):  # type: ignore[no-untyped-def]
    """Give each running request its tokens and blocks; returns (token budget left, how many were preempted).

    Those before place `first` have theirs already, one token each; then blocks must suffice.
    """
    columns, lists, limits, count = engine.columns, engine.lists, engine.limits, engine.counters
    budget = limits.max_tokens - first
    preempted = 0
    i = first
    while i < count[RUNNING] and budget > 0:
        n = lists.running[i]
        if awaits_last(engine, n):
            lists.scheduled[i] = 0
            i += 1
            continue
        tokens, charged = next_chunk(engine, n, columns.computed[n], budget)
        lacking = blocks_for(columns.computed[n] + tokens, limits.block_size) - columns.blocks[n]
        while lacking > count[FREE]:
            preempted += 1
            place = last_in_line(engine)
            if place < i:  # it had its tokens already
                budget += lists.scheduled[place]
                i -= 1
            if preempt(engine, place) == n:
                clear_scheduled(engine, i)
                return budget, preempted
        if lacking > 0:
            take(engine, engine.cache, n, lacking)
        fill(engine, engine.cache, n, min(columns.computed[n] + tokens, known_tokens(engine, n)))
        lists.scheduled[i] = tokens
        budget -= charged
        i += 1
    clear_scheduled(engine, i)
    return budget, preempted


@inside
def clear_scheduled(engine, place):  # type: ignore[no-untyped-def]
    """The running requests from `place` on get no tokens in this step."""
    for i in range(place, engine.counters[RUNNING]):
        engine.lists.scheduled[i] = 0


@inside
def present(engine, n, found):  # type: ignore[no-untyped-def]
    """Tokens of waiting request n whose KV need not be computed: `found` cached blocks, or all that host memory kept.

    The last token is always computed, since its output is wanted.
    """
    size = engine.limits.block_size
    tokens = found * size
    if engine.limits.reload_s_per_token > 0.0:
        kept = min(engine.live.high_water[n], known_tokens(engine, n) - 1)
        tokens = max(tokens, kept // size * size)
    return tokens


@inside
def fits_now(engine, n, budget):  # type: ignore[no-untyped-def]
    """The engine's own admission rule for a waiting request."""
    limits, count = engine.limits, engine.counters
    if count[RUNNING] >= limits.max_seqs or budget <= 0 or is_owed(engine, n):
        return False
    known = known_tokens(engine, n)
    found, idle = find(engine, engine.cache, n, known - 1)
    if not limits.chunked and known - present(engine, n, found) > budget:
        return False
    margin = limits.watermark_blocks if count[RUNNING] > 0 else 0
    return blocks_for(known, limits.block_size) - found + idle + margin <= count[FREE]


@inside
def admit(engine, n, budget):  # type: ignore[no-untyped-def]
    """Move waiting request n into the batch with its first chunk; returns the token budget left."""
    columns, lists, limits, count = engine.columns, engine.lists, engine.limits, engine.counters
    known = known_tokens(engine, n)
    found, idle = find(engine, engine.cache, n, known - 1)
    start = present(engine, n, found)
    tokens, charged = next_chunk(engine, n, start, budget)
    remove(engine, n)
    join(engine, engine.cache, n, found, idle, known)
    take(engine, engine.cache, n, blocks_for(start + tokens, limits.block_size) - found)
    fill(engine, engine.cache, n, start + tokens)
    count[RESTORED] += min(start, engine.live.high_water[n])
    engine.clock[RELOAD] += limits.reload_s_per_token * (start - found * limits.block_size)
    columns.computed[n] = start
    columns.shared[n] = (found - idle) * limits.block_size
    columns.idle[n] = 0
    lists.running[count[RUNNING]] = n
    lists.scheduled[count[RUNNING]] = tokens
    count[RUNNING] += 1
    return budget - charged


@compiled
def admit_in_order(engine, budget):  # type: ignore[no-untyped-def]
    """vLLM's own admission: from the front of the queue until one does not fit; returns how many entered."""
    admitted = 0
    while engine.counters[WAITING] > 0 and fits_now(engine, engine.counters[HEAD], budget):
        budget = admit(engine, engine.counters[HEAD], budget)
        admitted += 1
    return admitted


@compiled
def abort(engine, n):  # type: ignore[no-untyped-def]
    """The client of request n has gone: it leaves without finishing."""
    lists, count = engine.lists, engine.counters
    drop(engine, n)
    for place in range(count[RUNNING]):
        if lists.running[place] == n:
            take_out(engine, place)
            give_back(engine, engine.cache, n)
            return
    remove(engine, n)
