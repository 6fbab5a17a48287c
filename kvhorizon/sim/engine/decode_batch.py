"""The decode batch: the leading running requests that only decode, carried together instead of one by one.

Each member takes one token a step, so with t the decode batch's clock [steps] its context is c(t) = c(s) + t − s, where
s is when its columns were last brought up to date. What a step needs of all members is kept as sums that change when
one joins or ends, not at every step:

    kv          Σ (c + 1)                            KV tokens that the next step reads
    opens[p]    members that need a new block when t ≡ p (mod block size)
    ends[e]     members whose last token comes in the step at t ≡ e (mod ring)

so that a step costs what its events cost. Members are the first of the running list, which get their tokens before all
others. Where blocks lack and it is not simply the last that are preempted, the decode batch is dissolved first.
"""

from kvhorizon.compiled.compiler import inside
from kvhorizon.sim.engine.arrays import CLOCK, DONE, FREE, KV, RUNNING, SIZE, SYNCED
from kvhorizon.sim.engine.blocks import blocks_for, fill, give_back, take
from kvhorizon.sim.engine.step import preempt


@inside
def catch_up(engine, ahead):  # type: ignore[no-untyped-def]
    """Bring the members' columns up to date; `ahead` is 1 where their blocks of the coming step are taken already."""
    columns, together, size = engine.columns, engine.decode_batch.tally, engine.limits.block_size
    steps = together[CLOCK] - together[SYNCED]
    for i in range(together[SIZE]):
        n = engine.lists.running[i]
        columns.computed[n] += steps
        columns.generated[n] += steps
        columns.blocks[n] = blocks_for(columns.computed[n] + ahead, size)
    together[SYNCED] = together[CLOCK]


@inside
def gather(engine):  # type: ignore[no-untyped-def]
    """Running requests that follow the decode batch and only decode join it; returns whether all now are, and any
    is."""
    columns, lists, together = engine.columns, engine.lists, engine.decode_batch.tally
    opens, ends, size = engine.decode_batch.opens, engine.decode_batch.ends, engine.limits.block_size
    behind = together[CLOCK] - together[SYNCED]
    most = min(engine.counters[RUNNING], engine.limits.max_tokens)
    while together[SIZE] < most:
        n = lists.running[together[SIZE]]
        computed, generated = columns.computed[n], columns.generated[n]
        if generated == 0 or computed + 1 != columns.prompt[n] + generated:
            return False
        opens[(together[CLOCK] - computed) % size] += 1
        ends[(together[CLOCK] + engine.live.output[n] - generated - 1) & (len(ends) - 1)] += 1
        together[KV] += computed + 1
        together[SIZE] += 1
        columns.computed[n] -= behind
        columns.generated[n] -= behind
    return 0 < together[SIZE] == engine.counters[RUNNING]


@inside
def scatter(engine):  # type: ignore[no-untyped-def]
    """Dissolve the decode batch between two steps."""
    together, ends = engine.decode_batch.tally, engine.decode_batch.ends
    catch_up(engine, 0)
    for i in range(together[SIZE]):
        n = engine.lists.running[i]
        ends[(together[CLOCK] + engine.live.output[n] - engine.columns.generated[n] - 1) & (len(ends) - 1)] = 0
    engine.decode_batch.opens[:] = 0
    together[SIZE] = together[KV] = 0


@inside
def opening(engine):  # type: ignore[no-untyped-def]
    """Blocks that the decode batch needs for its next step."""
    return engine.decode_batch.opens[engine.decode_batch.tally[CLOCK] % engine.limits.block_size]


@inside
def part_last(engine):  # type: ignore[no-untyped-def]
    """The decode batch's last member leaves it and runs singly."""
    columns, together, size = engine.columns, engine.decode_batch.tally, engine.limits.block_size
    opens, ends = engine.decode_batch.opens, engine.decode_batch.ends
    steps = together[CLOCK] - together[SYNCED]
    together[SIZE] -= 1
    n = engine.lists.running[together[SIZE]]
    columns.computed[n] += steps
    columns.generated[n] += steps
    columns.blocks[n] = blocks_for(columns.computed[n], size)
    opens[(together[CLOCK] - columns.computed[n]) % size] -= 1
    ends[(together[CLOCK] + engine.live.output[n] - columns.generated[n] - 1) & (len(ends) - 1)] -= 1
    together[KV] -= columns.computed[n] + 1


@inside
def make_room(engine):  # type: ignore[no-untyped-def]
    """Preempt the last running until the decode batch has its blocks, as the engine does in its order; returns how
    many."""
    preempted = 0
    while opening(engine) > engine.counters[FREE]:
        if engine.decode_batch.tally[SIZE] == engine.counters[RUNNING]:
            part_last(engine)
        preempt(engine, engine.counters[RUNNING] - 1)
        preempted += 1
    return preempted


@inside
def open_blocks(engine, cache, opened):  # type: ignore[no-untyped-def]
    """Give the decode batch the blocks of its next step; with prefix caching one by one, as each block has its
    content."""
    if cache is None:
        engine.counters[FREE] -= opened
        return
    columns, together, size = engine.columns, engine.decode_batch.tally, engine.limits.block_size
    if opened + engine.decode_batch.opens[(together[CLOCK] + 1) % size] == 0:
        return
    steps = together[CLOCK] - together[SYNCED]
    for i in range(together[SIZE]):
        n = engine.lists.running[i]
        computed = columns.computed[n] + steps
        within = computed % size
        if within == 0:
            take(engine, cache, n, 1)
        if within + 1 == size:
            fill(engine, cache, n, computed + 1)


@inside
def step_on(engine):  # type: ignore[no-untyped-def]
    """One step of the decode batch has run."""
    together = engine.decode_batch.tally
    together[CLOCK] += 1
    together[KV] += together[SIZE]


@inside
def end_members(engine, now_s):  # type: ignore[no-untyped-def]
    """Members that gave their last token in the step before leave; returns how many did."""
    columns, live, lists, together = engine.columns, engine.live, engine.lists, engine.decode_batch.tally
    ends, size = engine.decode_batch.ends, engine.limits.block_size
    slot = (together[CLOCK] - 1) & (len(ends) - 1)
    ended = ends[slot]
    if ended == 0:
        return 0
    ends[slot] = 0
    steps = together[CLOCK] - together[SYNCED]
    kept = 0
    for i in range(together[SIZE]):
        n = lists.running[i]
        if columns.generated[n] + steps < live.output[n]:
            lists.running[kept] = n
            kept += 1
            continue
        columns.computed[n] += steps
        columns.generated[n] += steps
        columns.blocks[n] = blocks_for(columns.computed[n], size)
        engine.decode_batch.opens[(together[CLOCK] - columns.computed[n]) % size] -= 1
        together[KV] -= columns.computed[n] + 1
        live.finish_s[n] = now_s
        give_back(engine, engine.cache, n)
        lists.finished[engine.counters[DONE]] = n
        engine.counters[DONE] += 1
    for i in range(together[SIZE], engine.counters[RUNNING]):
        lists.running[i - ended] = lists.running[i]
        lists.scheduled[i - ended] = lists.scheduled[i]
    together[SIZE] -= ended
    engine.counters[RUNNING] -= ended
    return ended
