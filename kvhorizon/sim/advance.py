"""The simulation loop: step after step in virtual time, skipping exactly over stretches in which nothing is decided."""

import numpy as np
from numba import njit

from kvhorizon.models.step_time import step_seconds
from kvhorizon.models.survival import mean_remaining
from kvhorizon.sim.ahead import drain
from kvhorizon.sim.arrays import (
    ARRIVED,
    BUSY,
    DONE,
    FREE,
    HEAD,
    NEXT_SAMPLE,
    NOW,
    PAIRS,
    RUNNING,
    SAMPLE_EVERY,
    SAMPLES,
    STEP,
    STEPS,
    TIMELINE_ROWS,
    TOKENS,
    WAITING,
)
from kvhorizon.sim.blocks import fill, take
from kvhorizon.sim.queue import arrive
from kvhorizon.sim.steer import admit_chosen, put_victims_last
from kvhorizon.sim.step import admit_in_order, execute, schedule_running

FINISHED, TICK, LEARN = range(3)  # why `advance` returned
REEVALUATE_STEPS = 16  # a guest with a queue looks again after so many steps in which nothing happened


@njit(cache=True)
def take_arrivals(engine, curves, guest):  # type: ignore[no-untyped-def]
    """Requests that have arrived by now join the queue; in a closed loop, those that may arrive do so now."""
    columns, count = engine.columns, engine.counters
    while count[ARRIVED] < len(columns.arrival_s):
        n = count[ARRIVED]
        if n < count[DONE] + engine.limits.concurrency:
            columns.arrival_s[n] = engine.clock[NOW]
        if columns.arrival_s[n] > engine.clock[NOW]:
            break
        arrive(engine, n)
        if guest.steers:
            columns.remaining[n] = mean_remaining(curves, n, 0, columns.limit[n])
        count[ARRIVED] += 1


@njit(cache=True)
def sample(engine):  # type: ignore[no-untyped-def]
    """Keep a row of the timeline; when full, drop every other row and sample half as often."""
    clock, count, rows = engine.clock, engine.counters, engine.lists.timeline
    if clock[NOW] < clock[NEXT_SAMPLE]:
        return
    if count[SAMPLES] == TIMELINE_ROWS:
        rows[: TIMELINE_ROWS // 2] = rows[::2].copy()
        count[SAMPLES] = TIMELINE_ROWS // 2
        clock[SAMPLE_EVERY] *= 2.0
    row = rows[count[SAMPLES]]
    row[0] = clock[NOW]
    row[1] = engine.limits.total_blocks - count[FREE]
    row[2] = count[RUNNING]
    row[3] = count[WAITING]
    count[SAMPLES] += 1
    clock[NEXT_SAMPLE] = clock[NOW] + clock[SAMPLE_EVERY]


@njit(cache=True)
def forecast_preempted(engine, curves, preempted):  # type: ignore[no-untyped-def]
    """Predict anew for the requests at the front of the queue that this step preempted."""
    columns = engine.columns
    n = engine.counters[HEAD]
    for _ in range(preempted):
        columns.remaining[n] = mean_remaining(curves, n, columns.generated[n], columns.limit[n])
        n = engine.live.newer[n]


@njit(cache=True)
def schedule(engine, curves, guest, cost, desk):  # type: ignore[no-untyped-def]
    """Decide one step; returns whether the next step would decide the same, should nobody finish or arrive."""
    if guest.steers:
        put_victims_last(engine, curves, guest, cost, desk)
    budget, preempted = schedule_running(engine)
    if preempted > 0:
        if guest.steers:
            forecast_preempted(engine, curves, preempted)
        return False
    decodes_only = budget == engine.limits.max_tokens - engine.counters[RUNNING]
    if engine.counters[WAITING] == 0:
        return True
    if guest.steers:
        return admit_chosen(engine, curves, guest, desk, budget) == 0 and decodes_only
    return admit_in_order(engine, budget) == 0 and decodes_only


@njit(cache=True)
def quiet_steps(engine, guest):  # type: ignore[no-untyped-def]
    """How many further steps can only decode: until the first finish, or a guest's next look at its queue."""
    columns, lists, count = engine.columns, engine.lists, engine.counters
    if count[RUNNING] == 0 or count[RUNNING] > engine.limits.max_tokens:
        return 0
    steps = 1 << 40
    for i in range(count[RUNNING]):
        n = lists.running[i]
        if columns.generated[n] == 0 or columns.computed[n] + 1 != columns.prompt[n] + columns.generated[n]:
            return 0
        steps = min(steps, int(engine.live.output[n] - columns.generated[n] - 1))
    if guest.steers and count[WAITING] > 0 and count[RUNNING] < engine.limits.max_seqs:
        steps = min(steps, REEVALUATE_STEPS)
    return steps


@njit(cache=True)
def open_blocks(engine, cache, steps, opened, filled):  # type: ignore[no-untyped-def]
    """The step that comes after `steps` pure decode steps: so many requests open a block, so many fill theirs."""
    if cache is None:
        engine.counters[FREE] -= opened
        return
    if opened + filled == 0:
        return
    columns, size = engine.columns, engine.limits.block_size
    for i in range(engine.counters[RUNNING]):
        n = engine.lists.running[i]
        computed = columns.computed[n] + steps
        if computed % size == 0:
            take(engine, cache, n, 1)
        if (computed + 1) % size == 0:
            fill(engine, cache, n, computed + 1)


@njit(cache=True)
def skip_decodes(engine, cost, most, watch_arrivals, until_s, growth):  # type: ignore[no-untyped-def]
    """Advance up to `most` pure decode steps at once, exactly, until blocks run out, a request arrives or time is up.

    `growth[j]` counts the requests whose next token j steps from now opens a block, (block_size,).
    """
    columns, lists, limits, count, clock = engine.columns, engine.lists, engine.limits, engine.counters, engine.clock
    size = limits.block_size
    growth[:] = 0
    kv = 0.0
    for i in range(count[RUNNING]):
        computed = columns.computed[lists.running[i]]
        growth[(size - computed % size) % size] += 1
        kv += computed + 1
    running = count[RUNNING]
    without_kv = step_seconds(cost, 0, 0.0, running, 0.0, running)
    per_token = step_seconds(cost, 0, 0.0, running, 1.0e6, running) - without_kv
    next_arrival = columns.arrival_s[count[ARRIVED]] if count[ARRIVED] < len(columns.arrival_s) else np.inf
    steps = 0
    while steps < most and clock[NOW] < until_s:
        if watch_arrivals and next_arrival <= clock[NOW]:
            break
        opened = growth[steps % size]
        if opened > count[FREE]:
            break
        open_blocks(engine, engine.cache, steps, opened, growth[(steps + 1) % size])
        seconds = without_kv + per_token * 1.0e-6 * kv
        clock[NOW] += seconds
        clock[BUSY] += seconds
        clock[STEP] += 0.01 * (seconds - clock[STEP])
        clock[PAIRS] += kv
        kv += running
        steps += 1
        sample(engine)
    for i in range(running):
        n = lists.running[i]
        columns.computed[n] += steps
        columns.generated[n] += steps
        columns.blocks[n] = (columns.computed[n] + size - 1) // size
    clock[TOKENS] += steps * running
    count[STEPS] += steps


@njit(cache=True)
def advance(engine, curves, guest, cost, desk, until_s, learn_at, skip):  # type: ignore[no-untyped-def]
    """Run until all requests are done (FINISHED), time `until_s` is reached (TICK) or `learn_at` have finished (LEARN).

    Without `skip` every step is taken singly; only tests, to show that skipping changes nothing, have a use for that.
    """
    columns, count, clock = engine.columns, engine.counters, engine.clock
    total = len(columns.arrival_s)
    growth = np.zeros(engine.limits.block_size, np.int64)
    while count[DONE] < total:
        take_arrivals(engine, curves, guest)
        if count[RUNNING] == 0 and count[WAITING] == 0:
            drain(engine)
            clock[NOW] = max(clock[NOW], columns.arrival_s[count[ARRIVED]])
            continue
        if clock[NOW] >= until_s:
            return TICK
        unchanged = schedule(engine, curves, guest, cost, desk)
        finished = execute(engine, cost)
        sample(engine)
        if count[DONE] >= learn_at and count[DONE] < total:
            return LEARN
        if skip and not engine.limits.ahead and (count[WAITING] == 0 or (unchanged and finished == 0)):
            watch = guest.steers or count[WAITING] == 0
            skip_decodes(engine, cost, quiet_steps(engine, guest), watch, until_s, growth)
    return FINISHED
