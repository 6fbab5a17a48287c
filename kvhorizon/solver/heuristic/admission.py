"""Choosing admissions for one step: candidates in order of the rule, each tested against the forecast.

Used by the simulator each step, by the service on a snapshot, and beside a live engine.
"""

import math
from typing import NamedTuple

from kvhorizon.compiled.compiler import compiled
from kvhorizon.models.forecast.survival import mean_remaining, survive_each
from kvhorizon.solver.heuristic.caution import caution
from kvhorizon.solver.heuristic.columns import Int32Array
from kvhorizon.solver.heuristic.footprint import blocks_to_take, is_warm, own_tokens, prefill_tokens, shared_in_use
from kvhorizon.solver.heuristic.holding import best_cached, is_held, may_hold
from kvhorizon.solver.heuristic.order import LATE_FIRST, TRIED, best_place, oldest_place, rank_waiting
from kvhorizon.solver.heuristic.out_of_order import (
    ADMITTED,
    CARE,
    DEEP,
    OWED,
    Front,
    Memory,
    is_overdue,
    note_places,
    overtaking_tokens,
    owed_after,
    whose_turn,
)
from kvhorizon.solver.heuristic.params import (
    HORIZONS,
    Victim,
    growth_reserve,
    own_horizon_excess,
    reserve_cap,
    victim_score,
)


@compiled
def add_to_profile(columns, curves, n, half_block, scratch):  # type: ignore[no-untyped-def]
    """Count request n into the batch's expected tokens and their variance."""
    survive_each(curves, n, columns.generated[n], HORIZONS, columns.limit[n], scratch.profile.survival)
    own = own_tokens(columns, n)
    for h in range(len(HORIZONS)):
        s = scratch.profile.survival[h]
        if s <= 0.0:
            break
        size = own + HORIZONS[h] + half_block
        scratch.profile.mean[h] += s * size
        scratch.profile.variance[h] += s * (1.0 - s) * size * size


@compiled
def build_profile(columns, curves, batch, half_block, scratch):  # type: ignore[no-untyped-def]
    """Expected tokens of the running requests and of those just chosen, at each horizon.

    The tokens that they hold together are there once, and taken to stay.
    """
    scratch.profile.mean[:] = batch.shared
    scratch.profile.variance[:] = 0.0
    for i in range(batch.num_running):
        add_to_profile(columns, curves, batch.running[i], half_block, scratch)
    for i in range(batch.chosen):
        add_to_profile(columns, curves, scratch.result.chosen[i], half_block, scratch)


class Batch(NamedTuple):
    """The requests that run after this step, for the forecast of what they will hold."""

    running: Int32Array
    num_running: int
    chosen: int  # so far; `scratch.result.chosen` says which
    shared: float  # tokens that they hold together
    care: float  # share of all reserves that is kept (`caution`)
    ready: bool  # the profile is built


class Trial(NamedTuple):
    """A candidate for admission."""

    n: int
    sure: bool  # it needs only the least reserve and what the batch is to grow by
    oldest: bool  # of all that wait
    occupied: float  # tokens of the pool in use
    average: float  # mean predicted output of those that wait [tokens]


@compiled
def leaves_reserve(columns, curves, rule, scratch, trial, batch, room):  # type: ignore[no-untyped-def]
    """Whether the candidate fits besides its reserve, and whether the profile is built now.

    The forecast is only consulted between the least and the greatest reserve; outside it cannot matter.
    """
    pool, half_block = float(room.total_blocks * room.block_size), 0.5 * room.block_size
    n, care = trial.n, batch.care
    own = own_tokens(columns, n)
    spare = pool - trial.occupied - own
    if spare < care * rule.reserve.min_share * pool:
        return False, batch.ready
    growth = care * growth_reserve(rule, batch.num_running + batch.chosen + 1, pool)
    cap = 0.0
    if not trial.sure:
        cap = care * reserve_cap(rule, trial.oldest, columns.remaining[n], trial.average) * pool
    if spare >= max(cap, growth):
        return True, batch.ready
    if not batch.ready:
        build_profile(columns, curves, batch, half_block, scratch)
    if spare < growth and spare < rule.reserve.growth_spread * math.sqrt(scratch.profile.variance[0]):
        return False, True
    if spare >= cap:
        return True, True
    survive_each(curves, n, columns.generated[n], HORIZONS, columns.limit[n], scratch.profile.survival)
    excess = own_horizon_excess(
        scratch.profile.survival,
        scratch.profile.mean,
        scratch.profile.variance,
        rule.reserve.z,
        own,
        half_block,
        trial.occupied,
    )
    return spare >= excess, True


class Queue(NamedTuple):
    """What those that wait want together [tokens]."""

    average: float  # mean predicted output
    wanted: float  # memory
    deep: float  # of it, what lies beyond what order within the queue is not worth a wait for (`DEEP`)


@compiled
def survey(columns, rule, room, scratch, num_waiting):  # type: ignore[no-untyped-def]
    """Rank those that wait, note their places, and sum up what they want."""
    average = rank_waiting(columns, rule, room, scratch, num_waiting)
    wanted = note_places(columns, scratch, num_waiting)
    return Queue(average, wanted, max(wanted - DEEP * float(room.used_blocks * room.block_size), 0.0))


@compiled
def renewed(columns, scratch, best, first, num_waiting):  # type: ignore[no-untyped-def]
    """The best and the oldest place, looked for anew where what was there has been tried or taken."""
    if best >= 0 and scratch.keys[best] == TRIED:
        best = best_place(scratch, num_waiting)
    if first >= 0 and scratch.waiting[first] < 0:
        first = oldest_place(columns, scratch, num_waiting)
    return best, first


@compiled
def next_candidate(columns, rule, scratch, front, memory, queue, held, num_waiting):  # type: ignore[no-untyped-def]
    """Place of the next candidate, whether it would overtake, whether memory has slack, and whether the oldest is
    overdue. Once a request is `held` back only those are tried that are never held."""
    best, oldest = front.best, front.oldest
    if not rule.budgeted:
        return best_cached(columns, scratch, num_waiting) if held else best, False, False, False
    warm = best >= 0 and rule.cached and is_warm(columns, scratch.waiting[best])
    share = rule.quota.overdue_warm if warm else rule.quota.overdue_share
    queued = queue.wanted if warm else queue.deep
    overdue = oldest >= 0 and is_overdue(columns, scratch, scratch.waiting[oldest], share, queued)
    if held:
        return best_cached(columns, scratch, num_waiting), False, False, overdue
    place, overtakes, memory_slack = whose_turn(columns, rule, scratch, front, overdue, memory)
    return place, overtakes, memory_slack, overdue


@compiled
def take(columns, rule, scratch, place, chosen, overtakes, memory_slack):  # type: ignore[no-untyped-def]
    """The request at a place of the queue is the next one chosen."""
    n = scratch.waiting[place]
    scratch.waiting[place] = -1
    scratch.result.chosen[chosen] = n
    scratch.result.overtakes[chosen] = 1 if overtakes else 0
    scratch.ledger[ADMITTED] += own_tokens(columns, n)
    if memory_slack:
        scratch.ledger[OWED] = owed_after(rule, prefill_tokens(columns, n), overtakes, scratch.ledger[OWED])


@compiled
def choose_admissions(columns, curves, rule, running, num_running, room, scratch, num_waiting):  # type: ignore[no-untyped-def]
    """Fill `scratch.result.chosen` and `scratch.result.overtakes`; returns how many were chosen.

    Never leaves an idle engine idle: with nothing running, the first candidate that fits is taken.
    """
    size, queue = room.block_size, survey(columns, rule, room, scratch, num_waiting)
    scratch.ledger[CARE] = caution(columns, rule, room, running, num_running, num_waiting)
    free, budget, chosen, failures = room.free_blocks - room.owed_blocks, room.token_budget, 0, 0
    shared = shared_in_use(columns, running, num_running, float(room.used_blocks * size), size)
    granted = float(overtaking_tokens(columns, running, num_running, size)) if rule.budgeted else 0.0
    holds = may_hold(columns, rule, running, num_running, scratch.waiting, num_waiting, room)
    # Memory is being kept for the oldest; the profile is built; one is held back, and only those never held are tried.
    oldest_waits, ready, held = False, False, False
    best, first = best_place(scratch, num_waiting), oldest_place(columns, scratch, num_waiting) if rule.budgeted else -1
    while budget > 0 and chosen < room.seats and failures <= rule.order.tries:
        best, first = renewed(columns, scratch, best, first, num_waiting)
        front = Front(best, -1 if oldest_waits else first, oldest_waits)
        memory = Memory(granted, float((room.total_blocks - free) * size), float(room.total_blocks * size))
        turn = next_candidate(columns, rule, scratch, front, memory, queue, held, num_waiting)
        place, overtakes, slack, overdue = turn
        if place < 0:
            break
        n, late = scratch.waiting[place], scratch.keys[place] < LATE_FIRST
        if holds and not held and not late and is_held(columns, rule, scratch, n, memory.used, queue.wanted, room):
            held = True
            continue
        wanted = blocks_to_take(columns, n, size)
        fits = wanted <= free
        if fits and num_running + chosen > 0:
            sure = late or (scratch.rank[n] > 0 and columns.remaining[n] <= rule.order.sure_outputs * queue.average)
            batch = Batch(running, num_running, chosen, shared, scratch.ledger[CARE], ready)
            trial = Trial(n, sure, place == front.oldest, memory.used, queue.average)
            fits, ready = leaves_reserve(columns, curves, rule, scratch, trial, batch, room)
        scratch.keys[place] = TRIED
        if not fits and (overdue or late):
            break
        if not fits:
            failures, oldest_waits = failures + 1, oldest_waits or place == front.oldest
            continue
        take(columns, rule, scratch, place, chosen, overtakes, slack)
        chosen, free, budget = chosen + 1, free - wanted, budget - min(prefill_tokens(columns, n), budget)
        granted += own_tokens(columns, n) if overtakes else 0
        if ready:
            add_to_profile(columns, curves, n, 0.5 * size, scratch)
    return chosen


@compiled
def victim_row(columns, curves, rule, cost, n, now_s, oldest_age_s):  # type: ignore[no-untyped-def]
    """Victim score of running request n."""
    generated = columns.generated[n]
    one = Victim(
        own_tokens(columns, n),
        generated,
        mean_remaining(curves, n, generated, columns.limit[n]),
        max(now_s - columns.arrival_s[n], 0.0),
        columns.preemptions[n],
        columns.out_of_order[n],
        columns.weight[n],
    )
    return victim_score(cost, rule, one, oldest_age_s)


@compiled
def refresh_remaining(columns, curves, waiting, num_waiting):  # type: ignore[no-untyped-def]
    """Predict anew how much output the waiting requests will still give [tokens]."""
    for i in range(num_waiting):
        n = waiting[i]
        columns.remaining[n] = mean_remaining(curves, n, columns.generated[n], columns.limit[n])
