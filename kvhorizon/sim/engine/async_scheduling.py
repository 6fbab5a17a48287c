"""Async scheduling: a step is decided while the one before it runs, so that its tokens count before they are known.

A request whose next token is under way is given the one after it. Therefore one that ends by a stop token has been
scheduled once more when that is seen; one that must end by its limit is not, but keeps its place and its blocks. The
token of a request that was preempted meanwhile is still delivered, and may end it where it waits.
Source: vllm/v1/core/sched/async_scheduler.py and `EngineCore.step_with_batch_queue`, release 0.32, with one step ahead.

Functions cost nothing but a test of `limits.ahead` where scheduling is synchronous.
"""

import numpy as np

from kvhorizon.compiled.compiler import inside
from kvhorizon.sim.engine.arrays import BUSY, DONE, NOW, RUNNING, UNDER_WAY, UNDER_WAY_S
from kvhorizon.sim.engine.blocks import fill, give_back
from kvhorizon.sim.engine.queue import remove


@inside
def tokens_under_way(engine, n):  # type: ignore[no-untyped-def]
    """Output tokens of running request n that are not known yet but will be."""
    if engine.limits.ahead:
        return engine.live.under_way[n]
    return np.int8(0)


@inside
def awaits_last(engine, n):  # type: ignore[no-untyped-def]
    """Whether the token under way reaches the limit of running request n, so that no further step is needed."""
    return tokens_under_way(engine, n) > 0 and engine.columns.generated[n] + 1 >= engine.columns.limit[n]


@inside
def is_owed(engine, n):  # type: ignore[no-untyped-def]
    """Whether waiting request n was preempted with a token under way: it must not run before that is known."""
    return tokens_under_way(engine, n) < 0


@inside
def owe(engine, n):  # type: ignore[no-untyped-def]
    """Request n is preempted: the token under way, if any, comes while it waits."""
    if engine.limits.ahead:
        engine.live.under_way[n] = -engine.live.under_way[n]


@inside
def drop(engine, n):  # type: ignore[no-untyped-def]
    """Request n has gone: no request waits for its token."""
    lists, count = engine.lists, engine.counters
    kept = 0
    for i in range(count[UNDER_WAY]):
        if lists.under_way[i] != n:
            lists.under_way[kept] = lists.under_way[i]
            kept += 1
    count[UNDER_WAY] = kept


@inside
def seconds_passing(engine, seconds, tokens):  # type: ignore[no-untyped-def]
    """Time until the next outputs: this step's own seconds, or, one step ahead, those of the step before."""
    if not engine.limits.ahead:
        return seconds
    before = engine.clock[UNDER_WAY_S]
    engine.clock[UNDER_WAY_S] = seconds if tokens > 0 else 0.0
    return before


@inside
def drain(engine):  # type: ignore[no-untyped-def]
    """Nothing can be scheduled and no token is awaited: the step under way, if any, runs to its end."""
    clock = engine.clock
    clock[NOW] += clock[UNDER_WAY_S]
    clock[BUSY] += clock[UNDER_WAY_S]
    clock[UNDER_WAY_S] = 0.0
    engine.counters[UNDER_WAY] = 0


@inside
def send(engine):  # type: ignore[no-untyped-def]
    """Contexts grow by the scheduled step; returns how many requests, in `lists.sent`, it will give a token."""
    columns, live, lists = engine.columns, engine.live, engine.lists
    sent = 0
    for i in range(engine.counters[RUNNING]):
        n = lists.running[i]
        columns.computed[n] += lists.scheduled[i]
        known = columns.prompt[n] + columns.generated[n] + live.under_way[n]
        if lists.scheduled[i] > 0 and columns.computed[n] == known:
            live.under_way[n] += 1
            lists.sent[sent] = n
            sent += 1
    return sent


@inside
def end(engine, n, waits):  # type: ignore[no-untyped-def]
    """Request n has its last token; one that runs leaves the running list later."""
    live, count = engine.live, engine.counters
    live.finish_s[n] = engine.clock[NOW]
    engine.lists.finished[count[DONE]] = n
    count[DONE] += 1
    if waits:
        remove(engine, n)
    else:
        give_back(engine, engine.cache, n)


@inside
def receive(engine, n):  # type: ignore[no-untyped-def]
    """Request n gets the token of the step that has run."""
    columns, live = engine.columns, engine.live
    columns.generated[n] += 1
    if columns.generated[n] == 1:
        live.first_token_s[n] = engine.clock[NOW]
    waits = live.under_way[n] < 0
    if waits:
        live.under_way[n] = 0
    else:
        live.under_way[n] -= 1
        fill(engine, engine.cache, n, columns.computed[n] - live.under_way[n])
    if columns.generated[n] >= live.output[n]:
        end(engine, n, waits)


@inside
def leave_running(engine):  # type: ignore[no-untyped-def]
    """The finished leave the running list."""
    lists, count = engine.lists, engine.counters
    kept = 0
    for i in range(count[RUNNING]):
        if np.isnan(engine.live.finish_s[lists.running[i]]):
            lists.running[kept] = lists.running[i]
            kept += 1
    count[RUNNING] = kept


@inside
def exchange(engine):  # type: ignore[no-untyped-def]
    """The scheduled step goes under way, the tokens of the one before arrive; returns how many requests finished."""
    lists, count = engine.lists, engine.counters
    before = count[DONE]
    sent = send(engine)
    for i in range(count[UNDER_WAY]):
        if np.isnan(engine.live.finish_s[lists.under_way[i]]):
            receive(engine, lists.under_way[i])
    if count[DONE] > before:
        leave_running(engine)
    for i in range(sent):
        lists.under_way[i] = lists.sent[i]
    count[UNDER_WAY] = sent
    return count[DONE] - before
