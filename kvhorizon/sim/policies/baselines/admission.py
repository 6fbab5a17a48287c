"""Admission tests: what must fit besides the prompt, which the engine checks itself.

* PROMPT_ONLY: nothing (vLLM; its watermark is part of the engine).
* RESERVE_MAX: every request's prompt and largest output (TensorRT-LLM's GUARANTEED_NO_EVICT).
* NEW_TOKEN_RATIO: a share of the largest output (SGLang: `schedule_policy.py`, `PrefillAdder.add_one_req`;
  `scheduler_components/new_token_ratio_tracker.py`).
* SAMPLED_PEAK, PREDICTED_PEAK, BOUND_PEAK: the batch's future peak; see `peak`.
* CAPPED_RESERVE: our own reserve, for use with another order and other victims.
"""

from kvhorizon.compiled.compiler import inside
from kvhorizon.sim.engine.arrays import FREE, HEAD, NOW, PREEMPTED, RUNNING, STEPS
from kvhorizon.sim.engine.blocks import blocks_for
from kvhorizon.sim.engine.step import known_tokens
from kvhorizon.sim.policies.baselines.codes import (
    BOUND_PEAK,
    CAPPED_RESERVE,
    NEW_TOKEN_RATIO,
    PREDICTED_PEAK,
    RESERVE_MAX,
    SAMPLED_PEAK,
)
from kvhorizon.sim.policies.baselines.memory import AVERAGE, LAST_PREEMPTED, LAST_STEP, PASS_TOKENS, RATIO, READY
from kvhorizon.sim.policies.baselines.peak import peak_fits
from kvhorizon.sim.policies.view import owed_blocks
from kvhorizon.solver.heuristic.admission import Batch, Trial, add_to_profile, leaves_reserve
from kvhorizon.solver.heuristic.footprint import shared_in_use

CLIP_TOKENS = 4096  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
INITIAL_RATIO = 0.7  # SGLANG_INIT_NEW_TOKEN_RATIO
LEAST_SHARE = 0.14  # SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR, of the initial ratio
DECAY_STEPS = 600  # SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS
RETRACT_STEPS = 20  # SGLANG_RETRACT_DECODE_STEPS


@inside
def largest_blocks(engine, n):  # type: ignore[no-untyped-def]
    """Blocks of request n if it gives all the output it may."""
    return blocks_for(engine.columns.prompt[n] + engine.columns.limit[n], engine.limits.block_size)


@inside
def largest_outputs_fit(engine, n):  # type: ignore[no-untyped-def]
    """Σ of the largest footprints, with request n, against the pool."""
    reserved = largest_blocks(engine, n)
    for i in range(engine.counters[RUNNING]):
        reserved += largest_blocks(engine, engine.lists.running[i])
    return reserved <= engine.limits.total_blocks


@inside
def output_to_reserve(engine, n):  # type: ignore[no-untyped-def]
    """min(largest output − generated, 4096) of request n [tokens]."""
    return min(max(engine.columns.limit[n] - engine.columns.generated[n], 0), CLIP_TOKENS)


@inside
def decayed_ratio(ratio, steps, conservativeness):  # type: ignore[no-untyped-def]
    """The ratio after so many decode steps without a retraction: linear from 0.7 to 0.098 in 600 of them."""
    initial = min(INITIAL_RATIO * conservativeness, 1.0)
    least = initial * LEAST_SHARE
    return max(ratio - steps * (initial - least) / DECAY_STEPS, least)


@inside
def retracted_ratio(generated, max_new, requests):  # type: ignore[no-untyped-def]
    """The ratio after a retraction, from the sums over those that stayed."""
    return min(1.0, (generated + RETRACT_STEPS * requests) / (max_new + 1.0))


@inside
def update_ratio(engine, rules):  # type: ignore[no-untyped-def]
    """Bring the new-token ratio up to this step: initial when the engine was idle, else bumped or decayed."""
    state, count, columns = rules.notes.state, engine.counters, engine.columns
    if count[RUNNING] == 0 and columns.arrival_s[count[HEAD]] >= engine.clock[NOW]:
        state[RATIO] = min(INITIAL_RATIO * rules.conservativeness, 1.0)
    elif count[PREEMPTED] > state[LAST_PREEMPTED]:
        generated, max_new = 0, 0
        for i in range(count[RUNNING]):
            generated += columns.generated[engine.lists.running[i]]
            max_new += columns.limit[engine.lists.running[i]]
        state[RATIO] = retracted_ratio(generated, max_new, count[RUNNING])
    else:
        state[RATIO] = decayed_ratio(state[RATIO], count[STEPS] - state[LAST_STEP], rules.conservativeness)


@inside
def ratio_fits(engine, rules, n):  # type: ignore[no-untyped-def]
    """Free tokens, less the ratio of what running requests may still give, against the whole of request n's."""
    state, size = rules.notes.state, engine.limits.block_size
    promised = state[PASS_TOKENS]
    for i in range(engine.counters[RUNNING]):
        m = engine.lists.running[i]
        if rules.notes.since_step[m] != engine.counters[STEPS]:
            promised += output_to_reserve(engine, m) * state[RATIO]
    free = (engine.counters[FREE] - owed_blocks(engine)) * size - promised
    if known_tokens(engine, n) + output_to_reserve(engine, n) + size >= free:
        return False
    state[PASS_TOKENS] += min(engine.columns.limit[n], CLIP_TOKENS)
    return True


@inside
def reserve_fits(engine, curves, rules, scratch, n):  # type: ignore[no-untyped-def]
    """Our own test of the forecast's excess between the least and the greatest reserve."""
    columns, limits, count, state = engine.columns, engine.limits, engine.counters, rules.notes.state
    free = count[FREE] - owed_blocks(engine)
    occupied = float((limits.total_blocks - free) * limits.block_size)
    used = float((limits.total_blocks - count[FREE]) * limits.block_size)
    shared = shared_in_use(columns, engine.lists.running, count[RUNNING], used, limits.block_size)
    batch = Batch(engine.lists.running, count[RUNNING], 0, shared, 1.0, state[READY] > 0.0)
    trial = Trial(n, False, False, occupied, state[AVERAGE])
    fits, ready = leaves_reserve(columns, curves, rules.ours, scratch, trial, batch, limits)
    if ready:
        state[READY] = 1.0
        if fits:
            add_to_profile(columns, curves, n, 0.5 * limits.block_size, scratch)
    return fits


@inside
def admissible(engine, curves, rules, scratch, n):  # type: ignore[no-untyped-def]
    """Whether the policy lets request n join a batch that runs; what it admits it counts in."""
    if rules.admission == RESERVE_MAX:
        return largest_outputs_fit(engine, n)
    if rules.admission == NEW_TOKEN_RATIO:
        return ratio_fits(engine, rules, n)
    if rules.admission in (SAMPLED_PEAK, PREDICTED_PEAK, BOUND_PEAK):
        return peak_fits(engine, curves, rules, n)
    if rules.admission == CAPPED_RESERVE:
        return reserve_fits(engine, curves, rules, scratch, n)
    return True
