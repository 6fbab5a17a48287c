"""Choosing admissions for one step: candidates in order of the rule, each tested against the forecast.

Used by the simulator each step, by the service on a snapshot, and beside a live engine.
"""

import math
from typing import NamedTuple

from kvhorizon.models.compiled import compiled
from kvhorizon.models.survival import mean_remaining, survive_each
from kvhorizon.solver.caution import caution
from kvhorizon.solver.columns import Int32Array
from kvhorizon.solver.footprint import blocks_to_take, is_warm, own_tokens, prefill_tokens, shared_in_use
from kvhorizon.solver.greedy import HORIZONS, Victim, growth_reserve, own_horizon_excess, reserve_cap, victim_score
from kvhorizon.solver.holding import best_cached, is_held, may_hold
from kvhorizon.solver.ranking import LATE_FIRST, TRIED, best_place, oldest_place, rank_waiting
from kvhorizon.solver.reordering import (
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


@compiled
def add_to_profile(columns, curves, n, half_block, desk):  # type: ignore[no-untyped-def]
    """Count request n into the batch's expected tokens and their variance."""
    survive_each(curves, n, columns.generated[n], HORIZONS, columns.limit[n], desk.survival)
    own = own_tokens(columns, n)
    for h in range(len(HORIZONS)):
        s = desk.survival[h]
        if s <= 0.0:
            break
        size = own + HORIZONS[h] + half_block
        desk.mean[h] += s * size
        desk.variance[h] += s * (1.0 - s) * size * size


@compiled
def build_profile(columns, curves, batch, half_block, desk):  # type: ignore[no-untyped-def]
    """Expected tokens of the running requests and of those just chosen, at each horizon.

    The tokens that they hold together are there once, and taken to stay.
    """
    desk.mean[:] = batch.shared
    desk.variance[:] = 0.0
    for i in range(batch.num_running):
        add_to_profile(columns, curves, batch.running[i], half_block, desk)
    for i in range(batch.chosen):
        add_to_profile(columns, curves, desk.chosen[i], half_block, desk)


class Batch(NamedTuple):
    """The requests that run after this step, for the forecast of what they will hold."""

    running: Int32Array
    num_running: int
    chosen: int  # so far; `desk.chosen` says which
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
def leaves_reserve(columns, curves, rule, desk, trial, batch, room):  # type: ignore[no-untyped-def]
    """Whether the candidate fits besides its reserve, and whether the profile is built now.

    The forecast is only consulted between the least and the greatest reserve; outside it cannot matter.
    """
    pool, half_block = float(room.total_blocks * room.block_size), 0.5 * room.block_size
    n, care = trial.n, batch.care
    own = own_tokens(columns, n)
    spare = pool - trial.occupied - own
    if spare < care * rule.reserve_min_share * pool:
        return False, batch.ready
    growth = care * growth_reserve(rule, batch.num_running + batch.chosen + 1, pool)
    cap = 0.0
    if not trial.sure:
        cap = care * reserve_cap(rule, trial.oldest, columns.remaining[n], trial.average) * pool
    if spare >= max(cap, growth):
        return True, batch.ready
    if not batch.ready:
        build_profile(columns, curves, batch, half_block, desk)
    if spare < growth and spare < rule.growth_spread * math.sqrt(desk.variance[0]):
        return False, True
    if spare >= cap:
        return True, True
    survive_each(curves, n, columns.generated[n], HORIZONS, columns.limit[n], desk.survival)
    excess = own_horizon_excess(desk.survival, desk.mean, desk.variance, rule.z, own, half_block, trial.occupied)
    return spare >= excess, True


class Queue(NamedTuple):
    """What those that wait want together [tokens]."""

    average: float  # mean predicted output
    wanted: float  # memory
    deep: float  # of it, what lies beyond what order within the queue is not worth a wait for (`DEEP`)


@compiled
def survey(columns, rule, room, desk, num_waiting):  # type: ignore[no-untyped-def]
    """Rank those that wait, note their places, and sum up what they want."""
    average = rank_waiting(columns, rule, room, desk, num_waiting)
    wanted = note_places(columns, desk, num_waiting)
    return Queue(average, wanted, max(wanted - DEEP * float(room.used_blocks * room.block_size), 0.0))


@compiled
def renewed(columns, desk, best, first, num_waiting):  # type: ignore[no-untyped-def]
    """The best and the oldest place, looked for anew where what was there has been tried or taken."""
    if best >= 0 and desk.keys[best] == TRIED:
        best = best_place(desk, num_waiting)
    if first >= 0 and desk.waiting[first] < 0:
        first = oldest_place(columns, desk, num_waiting)
    return best, first


@compiled
def next_candidate(columns, rule, desk, front, memory, queue, held, num_waiting):  # type: ignore[no-untyped-def]
    """Place of the next candidate, whether it would overtake, whether memory is plenty, and whether the oldest is
    overdue. Once a request is `held` back only those are tried that are never held."""
    best, oldest = front.best, front.oldest
    if not rule.budgeted:
        return best_cached(columns, desk, num_waiting) if held else best, False, False, False
    warm = best >= 0 and rule.cached and is_warm(columns, desk.waiting[best])
    share = rule.overdue_warm if warm else rule.overdue_share
    queued = queue.wanted if warm else queue.deep
    overdue = oldest >= 0 and is_overdue(columns, desk, desk.waiting[oldest], share, queued)
    if held:
        return best_cached(columns, desk, num_waiting), False, False, overdue
    place, overtakes, plenty = whose_turn(columns, rule, desk, front, overdue, memory)
    return place, overtakes, plenty, overdue


@compiled
def take(columns, rule, desk, place, chosen, overtakes, plenty):  # type: ignore[no-untyped-def]
    """The request at a place of the queue is the next one chosen."""
    n = desk.waiting[place]
    desk.waiting[place] = -1
    desk.chosen[chosen] = n
    desk.overtakes[chosen] = 1 if overtakes else 0
    desk.owed[ADMITTED] += own_tokens(columns, n)
    if plenty:
        desk.owed[OWED] = owed_after(rule, prefill_tokens(columns, n), overtakes, desk.owed[OWED])


@compiled
def choose_admissions(columns, curves, rule, running, num_running, room, desk, num_waiting):  # type: ignore[no-untyped-def]
    """Fill `desk.chosen` and `desk.overtakes`; returns how many were chosen.

    Never leaves an idle engine idle: with nothing running, the first candidate that fits is taken.
    """
    size, pool = room.block_size, float(room.total_blocks * room.block_size)
    queue = survey(columns, rule, room, desk, num_waiting)
    desk.owed[CARE] = caution(columns, rule, room, running, num_running, num_waiting)
    free, budget, chosen, failures = room.free_blocks - room.owed_blocks, room.token_budget, 0, 0
    shared = shared_in_use(columns, running, num_running, float(room.used_blocks * size), size)
    lent = float(overtaking_tokens(columns, running, num_running, size)) if rule.budgeted else 0.0
    oldest_waits, ready = False, False  # memory is being kept for the oldest; the profile is built
    holds = may_hold(columns, rule, running, num_running, desk.waiting, num_waiting, room)
    held = False  # a request is held back: from now on only those that are never held are tried
    best, first = best_place(desk, num_waiting), oldest_place(columns, desk, num_waiting) if rule.budgeted else -1
    while budget > 0 and chosen < room.seats and failures <= rule.tries:
        best, first = renewed(columns, desk, best, first, num_waiting)
        front = Front(best, -1 if oldest_waits else first, oldest_waits)
        memory = Memory(lent, float((room.total_blocks - free) * size), pool)
        place, overtakes, plenty, overdue = next_candidate(columns, rule, desk, front, memory, queue, held, num_waiting)
        if place < 0:
            break
        n, late = desk.waiting[place], desk.keys[place] < LATE_FIRST
        if holds and not held and not late and is_held(columns, rule, desk, n, memory.used, queue.wanted, room):
            held = True
            continue
        wanted = blocks_to_take(columns, n, size)
        fits = wanted <= free
        if fits and num_running + chosen > 0:
            sure = late or (desk.rank[n] > 0 and columns.remaining[n] <= rule.sure_outputs * queue.average)
            batch = Batch(running, num_running, chosen, shared, desk.owed[CARE], ready)
            trial = Trial(n, sure, place == front.oldest, memory.used, queue.average)
            fits, ready = leaves_reserve(columns, curves, rule, desk, trial, batch, room)
        desk.keys[place] = TRIED
        if not fits and (overdue or late):
            break
        if not fits:
            failures, oldest_waits = failures + 1, oldest_waits or place == front.oldest
            continue
        take(columns, rule, desk, place, chosen, overtakes, plenty)
        chosen, free, budget = chosen + 1, free - wanted, budget - min(prefill_tokens(columns, n), budget)
        lent += own_tokens(columns, n) if overtakes else 0
        if ready:
            add_to_profile(columns, curves, n, 0.5 * size, desk)
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
        columns.overtaker[n],
        columns.weight[n],
    )
    return victim_score(cost, rule, one, oldest_age_s)


@compiled
def refresh_remaining(columns, curves, waiting, num_waiting):  # type: ignore[no-untyped-def]
    """Predict anew how much output the waiting requests will still give [tokens]."""
    for i in range(num_waiting):
        n = waiting[i]
        columns.remaining[n] = mean_remaining(curves, n, columns.generated[n], columns.limit[n])
