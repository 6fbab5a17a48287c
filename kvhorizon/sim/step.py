"""One step of the engine: vLLM V1's `Scheduler.schedule` and `update_from_output`, as arrays.

Running requests come first, each given its next tokens within the token budget; where a block is lacking, the last of
the running list is preempted, loses its KV and goes to the front of the queue. Waiting requests are admitted only in
a step that preempted nobody, while their *whole* known sequence (and the watermark, if anything runs) fits into free
blocks. Source: vllm/v1/core/sched/scheduler.py and kv_cache_manager.py, release 0.32.
"""

from numba import njit

from kvhorizon.models.step_time import step_seconds
from kvhorizon.sim.arrays import (
    BUSY,
    DONE,
    FREE,
    NEAR_END,
    NOW,
    PAIRS,
    PREEMPTED,
    PREEMPTION_ROWS,
    RECOMPUTE,
    RUNNING,
    STEP,
    STEPS,
    TOKENS,
    WAITING,
)
from kvhorizon.sim.queue import push_front, remove

NEAR_END_SHARE = 0.8  # of the output: preemptions past it are counted apart


@njit(cache=True)
def known_tokens(engine, n):  # type: ignore[no-untyped-def]
    """Prompt and output so far of request n."""
    return engine.columns.prompt[n] + engine.columns.generated[n]


@njit(cache=True)
def blocks_for(tokens, block_size):  # type: ignore[no-untyped-def]
    return (tokens + block_size - 1) // block_size


@njit(cache=True)
def next_chunk(engine, n, computed, budget):  # type: ignore[no-untyped-def]
    """(tokens scheduled, tokens charged to the budget) of request n if it now has `computed` tokens."""
    limits = engine.limits
    tokens = known_tokens(engine, n) - computed
    alone = engine.counters[RUNNING] + engine.counters[WAITING] <= 1  # nobody to starve: no limit
    if 0 < limits.long_prefill_tokens < tokens and not alone:
        tokens = limits.long_prefill_tokens
    free_of_charge = 0
    if limits.free_recompute and engine.live.high_water[n] > computed:
        free_of_charge = min(tokens, engine.live.high_water[n] - computed)
    charged = min(tokens - free_of_charge, budget)
    return free_of_charge + charged, charged


@njit(cache=True)
def blocks_wanted(engine):  # type: ignore[no-untyped-def]
    """Blocks that the running requests will ask for in this step."""
    columns, lists, limits, count = engine.columns, engine.lists, engine.limits, engine.counters
    budget = limits.max_tokens
    wanted = 0
    for i in range(count[RUNNING]):
        if budget <= 0:
            break
        n = lists.running[i]
        tokens, charged = next_chunk(engine, n, columns.computed[n], budget)
        budget -= charged
        wanted += max(0, blocks_for(columns.computed[n] + tokens, limits.block_size) - columns.blocks[n])
    return wanted


@njit(cache=True)
def preempt_last(engine):  # type: ignore[no-untyped-def]
    """Take the last running request's KV away; returns it."""
    columns, live, lists, count = engine.columns, engine.live, engine.lists, engine.counters
    count[RUNNING] -= 1
    n = lists.running[count[RUNNING]]
    live.high_water[n] = max(live.high_water[n], columns.computed[n])
    count[FREE] += columns.blocks[n]
    columns.blocks[n] = 0
    columns.computed[n] = 0
    columns.overtaker[n] = 0
    columns.preemptions[n] += 1
    if count[PREEMPTED] < PREEMPTION_ROWS:
        lists.preempted_at[count[PREEMPTED], 0] = engine.clock[NOW]
        lists.preempted_at[count[PREEMPTED], 1] = n
    count[PREEMPTED] += 1
    if columns.generated[n] >= NEAR_END_SHARE * live.output[n]:
        count[NEAR_END] += 1
    push_front(engine, n)
    return n


@njit(cache=True)
def schedule_running(engine):  # type: ignore[no-untyped-def]
    """Give each running request its tokens and blocks; returns (token budget left, how many were preempted)."""
    columns, lists, limits, count = engine.columns, engine.lists, engine.limits, engine.counters
    budget = limits.max_tokens
    preempted = 0
    i = 0
    while i < count[RUNNING] and budget > 0:
        n = lists.running[i]
        tokens, charged = next_chunk(engine, n, columns.computed[n], budget)
        lacking = blocks_for(columns.computed[n] + tokens, limits.block_size) - columns.blocks[n]
        while lacking > count[FREE]:
            preempted += 1
            if preempt_last(engine) == n:
                return budget, preempted
        if lacking > 0:
            count[FREE] -= lacking
            columns.blocks[n] += lacking
        lists.scheduled[i] = tokens
        budget -= charged
        i += 1
    for j in range(i, count[RUNNING]):
        lists.scheduled[j] = 0
    return budget, preempted


@njit(cache=True)
def fits_now(engine, n, budget):  # type: ignore[no-untyped-def]
    """The engine's own admission rule for a waiting request."""
    limits, count = engine.limits, engine.counters
    if count[RUNNING] >= limits.max_seqs or budget <= 0:
        return False
    if not limits.chunked and known_tokens(engine, n) > budget:
        return False
    margin = limits.watermark_blocks if count[RUNNING] > 0 else 0
    return blocks_for(known_tokens(engine, n), limits.block_size) + margin <= count[FREE]


@njit(cache=True)
def admit(engine, n, budget):  # type: ignore[no-untyped-def]
    """Move waiting request n into the batch with its first chunk; returns the token budget left."""
    columns, lists, limits, count = engine.columns, engine.lists, engine.limits, engine.counters
    tokens, charged = next_chunk(engine, n, 0, budget)
    remove(engine, n)
    held = blocks_for(tokens, limits.block_size)
    columns.blocks[n] = held
    count[FREE] -= held
    lists.running[count[RUNNING]] = n
    lists.scheduled[count[RUNNING]] = tokens
    count[RUNNING] += 1
    return budget - charged


@njit(cache=True)
def batch_work(engine):  # type: ignore[no-untyped-def]
    """(prefill tokens, their pairs, decodes, KV tokens read, recomputed tokens, their pairs) of the scheduled step."""
    columns, live, lists = engine.columns, engine.live, engine.lists
    prefill = 0
    pairs = 0.0
    decodes = 0
    kv = 0.0
    again = 0
    again_pairs = 0.0
    for i in range(engine.counters[RUNNING]):
        n = lists.running[i]
        tokens = lists.scheduled[i]
        start = columns.computed[n]
        if tokens == 1:
            decodes += 1
            kv += start + 1
        elif tokens > 1:
            prefill += tokens
            pairs += tokens * (start + 0.5 * (tokens + 1))
        repeated = min(live.high_water[n] - start, tokens)
        if repeated > 0:
            repeated_pairs = repeated * (start + 0.5 * (repeated + 1))
            again += repeated
            again_pairs += repeated_pairs
            live.recompute_tokens[n] += repeated
            live.recompute_pairs[n] += repeated_pairs
    return prefill, pairs, decodes, kv, again, again_pairs


@njit(cache=True)
def run_batch(engine, cost):  # type: ignore[no-untyped-def]
    """Let the step's time pass; charge what recomputation added to it."""
    clock, count = engine.clock, engine.counters
    prefill, pairs, decodes, kv, again, again_pairs = batch_work(engine)
    seconds = step_seconds(cost, prefill, pairs, decodes, kv, count[RUNNING])
    if again > 0:
        first = min(again, prefill)
        without = step_seconds(cost, prefill - first, max(pairs - again_pairs, 0.0), decodes, kv, count[RUNNING])
        if engine.limits.free_recompute:
            seconds = without
        else:
            clock[RECOMPUTE] += seconds - without
    clock[NOW] += seconds
    clock[BUSY] += seconds
    clock[STEP] += 0.01 * (seconds - clock[STEP])
    clock[TOKENS] += prefill + decodes
    clock[PAIRS] += pairs + kv
    count[STEPS] += 1


@njit(cache=True)
def execute(engine, cost):  # type: ignore[no-untyped-def]
    """Run the scheduled step: time passes, contexts grow, tokens come out, requests finish.

    Returns how many finished.
    """
    columns, live, lists, count = engine.columns, engine.live, engine.lists, engine.counters
    run_batch(engine, cost)
    now = engine.clock[NOW]
    kept = 0
    before = count[DONE]
    for i in range(count[RUNNING]):
        n = lists.running[i]
        columns.computed[n] += lists.scheduled[i]
        if lists.scheduled[i] > 0 and columns.computed[n] == columns.prompt[n] + columns.generated[n]:
            columns.generated[n] += 1
            if columns.generated[n] == 1:
                live.first_token_s[n] = now
            if columns.generated[n] >= live.output[n]:
                live.finish_s[n] = now
                count[FREE] += columns.blocks[n]
                columns.blocks[n] = 0
                lists.finished[count[DONE]] = n
                count[DONE] += 1
                continue
        lists.running[kept] = n
        kept += 1
    count[RUNNING] = kept
    return count[DONE] - before
