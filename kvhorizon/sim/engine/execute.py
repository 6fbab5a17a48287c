"""A scheduled step is run: time passes, tokens come out, requests finish, as by vLLM V1's `update_from_output`.

Source: vllm/v1/core/sched/scheduler.py, release 0.32.
"""

from kvhorizon.compiled.compiler import compiled, inside
from kvhorizon.models.performance.measured_steps import STEP_WEIGHT
from kvhorizon.models.performance.step_time import step_seconds
from kvhorizon.sim.engine.arrays import (
    BUSY,
    DONE,
    NOW,
    PAIRS,
    RECOMPUTE,
    RECOMPUTED,
    RELOAD,
    RUNNING,
    STEP,
    STEPS,
    TOKENS,
)
from kvhorizon.sim.engine.async_scheduling import exchange, seconds_passing
from kvhorizon.sim.engine.blocks import give_back
from kvhorizon.sim.engine.turns import note_step


@inside
def batch_work(engine, together, kv_together):  # type: ignore[no-untyped-def]
    """(prefill tokens, their pairs, decodes, KV tokens read, recomputed tokens, their pairs) of the scheduled step.

    The first `together` running requests decode and read `kv_together` KV tokens; the others are looked at singly.
    """
    columns, live, lists = engine.columns, engine.live, engine.lists
    prefill = 0
    pairs = 0.0
    decodes = together
    kv = float(kv_together)
    again = 0
    again_pairs = 0.0
    for i in range(together, engine.counters[RUNNING]):
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


@inside
def beyond_one_each(engine, together):  # type: ignore[no-untyped-def]
    """Tokens of the scheduled step beyond one of each request."""
    tokens = 0
    for i in range(together, engine.counters[RUNNING]):
        tokens += max(engine.lists.scheduled[i] - 1, 0)
    return tokens


@inside
def run_batch(engine, cost, together, kv_together):  # type: ignore[no-untyped-def]
    """Let the step's time pass; charge what recomputation added to it. `…together` as for `batch_work`."""
    clock, count = engine.clock, engine.counters
    prefill, pairs, decodes, kv, again, again_pairs = batch_work(engine, together, kv_together)
    seconds = step_seconds(cost, prefill, pairs, decodes, kv, count[RUNNING])
    count[RECOMPUTED] += again
    if again > 0:
        first = min(again, prefill)
        without = step_seconds(cost, prefill - first, max(pairs - again_pairs, 0.0), decodes, kv, count[RUNNING])
        if engine.limits.free_recompute:
            seconds = without
        else:
            clock[RECOMPUTE] += seconds - without
    seconds += clock[RELOAD]
    clock[RECOMPUTE] += clock[RELOAD]
    clock[RELOAD] = 0.0
    note_step(engine.turns, seconds, beyond_one_each(engine, together))
    seconds = seconds_passing(engine, seconds, prefill + decodes)
    clock[NOW] += seconds
    clock[BUSY] += seconds
    clock[STEP] += STEP_WEIGHT * (seconds - clock[STEP])
    clock[TOKENS] += prefill + decodes
    clock[PAIRS] += pairs + kv
    count[STEPS] += 1


@inside
def take_tokens(engine, first):  # type: ignore[no-untyped-def]
    """Contexts of the running requests from place `first` on grow, tokens come out, requests finish.

    Returns how many finished.
    """
    if engine.limits.ahead:
        return exchange(engine)
    columns, live, lists, count = engine.columns, engine.live, engine.lists, engine.counters
    now = engine.clock[NOW]
    kept = first
    before = count[DONE]
    for i in range(first, count[RUNNING]):
        n = lists.running[i]
        columns.computed[n] += lists.scheduled[i]
        if lists.scheduled[i] > 0 and columns.computed[n] == columns.prompt[n] + columns.generated[n]:
            columns.generated[n] += 1
            if columns.generated[n] == 1:
                live.first_token_s[n] = now
            if columns.generated[n] >= live.output[n]:
                live.finish_s[n] = now
                give_back(engine, engine.cache, n)
                lists.finished[count[DONE]] = n
                count[DONE] += 1
                continue
        lists.running[kept] = n
        kept += 1
    count[RUNNING] = kept
    return count[DONE] - before


@compiled
def execute(engine, cost):  # type: ignore[no-untyped-def]
    """Run the scheduled step: time passes, then every request takes its tokens; returns how many finished."""
    run_batch(engine, cost, 0, 0)
    return take_tokens(engine, 0)
