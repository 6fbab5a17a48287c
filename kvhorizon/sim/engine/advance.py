"""The simulation loop: step after step in virtual time, skipping exactly over stretches in which nothing is decided.

Requests that only decode are carried as a decode batch, so that a step costs what happens in it and not what runs.
"""

import numpy as np

from kvhorizon.compiled.compiler import compiled, inside
from kvhorizon.models.forecast.survival import mean_remaining
from kvhorizon.models.performance.measured_steps import STEP_WEIGHT
from kvhorizon.models.performance.step_time import step_seconds
from kvhorizon.sim.engine.arrays import (
    ARRIVED,
    BUSY,
    CLOCK,
    DONE,
    FREE,
    HEAD,
    KV,
    NEXT_SAMPLE,
    NOW,
    PAIRS,
    RUNNING,
    SAMPLE_EVERY,
    SAMPLES,
    SIZE,
    STEP,
    STEPS,
    TIMELINE_ROWS,
    TOKENS,
    WAITING,
)
from kvhorizon.sim.engine.async_scheduling import drain
from kvhorizon.sim.engine.decode_batch import (
    catch_up,
    end_members,
    gather,
    make_room,
    open_blocks,
    opening,
    scatter,
    step_on,
)
from kvhorizon.sim.engine.execute import run_batch, take_tokens
from kvhorizon.sim.engine.queue import arrive
from kvhorizon.sim.engine.step import admit_in_order, blocks_wanted, schedule_running
from kvhorizon.sim.engine.turns import note_step
from kvhorizon.sim.policies.control import admit_chosen, put_victims_last

FINISHED, TICK, LEARN = range(3)  # why `advance` returned
REEVALUATE_STEPS = 16  # a plugin with a queue looks again after so many steps in which nothing happened


@inside
def take_arrivals(engine, curves, plugin):  # type: ignore[no-untyped-def]
    """Requests that have arrived by now join the queue; in a closed loop, those that may arrive do so now."""
    columns, count = engine.columns, engine.counters
    while count[ARRIVED] < len(columns.arrival_s):
        n = count[ARRIVED]
        if n < count[DONE] + engine.limits.concurrency:
            columns.arrival_s[n] = engine.clock[NOW]
        if columns.arrival_s[n] > engine.clock[NOW]:
            break
        arrive(engine, n)
        if plugin.steers:
            columns.remaining[n] = mean_remaining(curves, n, 0, columns.limit[n])
        count[ARRIVED] += 1


@inside
def sample(engine):  # type: ignore[no-untyped-def]
    """Keep a row of the timeline; when full, drop every other row and sample half as often."""
    clock, count, rows = engine.clock, engine.counters, engine.lists.timeline
    if clock[NOW] < clock[NEXT_SAMPLE]:
        return
    if count[SAMPLES] == TIMELINE_ROWS:
        for i in range(TIMELINE_ROWS // 2):
            for k in range(rows.shape[1]):
                rows[i, k] = rows[2 * i, k]
        count[SAMPLES] = TIMELINE_ROWS // 2
        clock[SAMPLE_EVERY] *= 2.0
    row = rows[count[SAMPLES]]
    row[0] = clock[NOW]
    row[1] = engine.limits.total_blocks - count[FREE]
    row[2] = count[RUNNING]
    row[3] = count[WAITING]
    count[SAMPLES] += 1
    clock[NEXT_SAMPLE] = clock[NOW] + clock[SAMPLE_EVERY]


@inside
def forecast_preempted(engine, curves, preempted):  # type: ignore[no-untyped-def]
    """Predict anew for the requests at the front of the queue that this step preempted."""
    columns = engine.columns
    n = engine.counters[HEAD]
    for _ in range(preempted):
        columns.remaining[n] = mean_remaining(curves, n, columns.generated[n], columns.limit[n])
        n = engine.live.newer[n]


@inside
def part_if_needed(engine, plugin):  # type: ignore[no-untyped-def]
    """Dissolve the decode batch where a baseline wants to look at every request, or this step will lack blocks and it
    is not simply the last running that are preempted; returns its size then."""
    together = engine.decode_batch.tally
    if together[SIZE] > 0:
        apart = plugin.baseline is not None
        if plugin.steers or engine.limits.by_priority or engine.cache is not None:
            apart = apart or opening(engine) + blocks_wanted(engine, together[SIZE]) > engine.counters[FREE]
        if apart:
            scatter(engine)
    return together[SIZE]


@inside
def schedule(engine, curves, plugin, cost, scratch):  # type: ignore[no-untyped-def]
    """Decide one step; returns whether the next step would decide the same, should no request finish or arrive."""
    forced = 0
    if part_if_needed(engine, plugin) > 0:
        forced = make_room(engine)
        open_blocks(engine, engine.cache, opening(engine))
    elif plugin.steers:
        put_victims_last(engine, curves, plugin, cost, scratch)
    budget, preempted = schedule_running(engine, engine.decode_batch.tally[SIZE])
    if forced + preempted > 0:
        if plugin.steers:
            forecast_preempted(engine, curves, preempted)
        return False
    decodes_only = budget == engine.limits.max_tokens - engine.counters[RUNNING]
    if engine.counters[WAITING] == 0:
        return True
    if plugin.steers:
        catch_up(engine, 1)
        return admit_chosen(engine, curves, plugin, scratch, budget) == 0 and decodes_only
    return admit_in_order(engine, budget) == 0 and decodes_only


@inside
def execute(engine, cost):  # type: ignore[no-untyped-def]
    """Run the scheduled step: time passes, contexts grow, tokens come out, requests finish; returns how many did."""
    together = engine.decode_batch.tally
    run_batch(engine, cost, together[SIZE], together[KV])
    step_on(engine)
    finished = end_members(engine, engine.clock[NOW])
    return finished + take_tokens(engine, together[SIZE])


@inside
def quiet_steps(engine, plugin):  # type: ignore[no-untyped-def]
    """How many further steps need no decision, should no request finish: until a plugin's next look at its queue."""
    count = engine.counters
    if plugin.steers and count[WAITING] > 0 and count[RUNNING] < engine.limits.max_seqs:
        return REEVALUATE_STEPS
    return 1 << 40


@inside
def decode_on(engine, cost, most, watch_arrivals, until_s):  # type: ignore[no-untyped-def]
    """Advance up to `most` steps in which all decode, exactly, until one of them would lack blocks or end a
    request, a request arrives or time is up."""
    columns, count, clock, together = engine.columns, engine.counters, engine.clock, engine.decode_batch.tally
    ends = engine.decode_batch.ends
    running = count[RUNNING]
    without_kv = step_seconds(cost, 0, 0.0, running, 0.0, running)
    per_token = 1.0e-6 * (step_seconds(cost, 0, 0.0, running, 1.0e6, running) - without_kv)
    next_arrival = columns.arrival_s[count[ARRIVED]] if count[ARRIVED] < len(columns.arrival_s) else np.inf
    stop_s = min(until_s, next_arrival) if watch_arrivals else until_s
    steps = 0
    while steps < most and clock[NOW] < stop_s and ends[together[CLOCK] & (len(ends) - 1)] == 0:
        opened = opening(engine)
        if opened > count[FREE]:
            break
        open_blocks(engine, engine.cache, opened)
        seconds = without_kv + per_token * together[KV]
        clock[NOW] += seconds
        clock[BUSY] += seconds
        clock[STEP] += STEP_WEIGHT * (seconds - clock[STEP])
        clock[PAIRS] += together[KV]
        note_step(engine.turns, seconds, 0)
        step_on(engine)
        steps += 1
        sample(engine)
    clock[TOKENS] += steps * running
    count[STEPS] += steps


@compiled
def advance(engine, curves, plugin, cost, scratch, until_s, learn_at, skip):  # type: ignore[no-untyped-def]
    """Run until all requests are done (FINISHED), time `until_s` is reached (TICK) or `learn_at` have finished (LEARN).

    Without `skip` every request takes every step singly; only tests, to show that nothing else changes, have a use
    for that.
    """
    columns, count, clock = engine.columns, engine.counters, engine.clock
    total = len(columns.arrival_s)
    reason = FINISHED
    while count[DONE] < total:
        take_arrivals(engine, curves, plugin)
        if count[RUNNING] == 0 and count[WAITING] == 0:
            drain(engine)
            clock[NOW] = max(clock[NOW], columns.arrival_s[count[ARRIVED]])
            continue
        if clock[NOW] >= until_s:
            reason = TICK
            break
        unchanged = schedule(engine, curves, plugin, cost, scratch)
        finished = execute(engine, cost)
        sample(engine)
        if count[DONE] >= learn_at and count[DONE] < total:
            reason = LEARN
            break
        if not skip or engine.limits.ahead or not gather(engine):
            continue
        if count[WAITING] == 0 or (unchanged and finished == 0):
            watch = plugin.steers or engine.limits.by_priority or count[WAITING] == 0
            decode_on(engine, cost, quiet_steps(engine, plugin), watch, until_s)
    scatter(engine)
    return reason
