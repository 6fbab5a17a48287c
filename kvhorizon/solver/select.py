"""Choosing admissions for one step: candidates in order of the rule, each tested against the forecast.

Used by the simulator each step, by the service on a snapshot, and beside a live engine.
"""

import math

from kvhorizon.models.compiled import compiled
from kvhorizon.models.survival import mean_remaining, survive_each
from kvhorizon.solver.caution import caution
from kvhorizon.solver.footprint import blocks_to_take, is_warm, own_tokens, prefill_tokens, shared_in_use
from kvhorizon.solver.greedy import HORIZONS, growth_reserve, own_horizon_excess, reserve_cap, victim_score
from kvhorizon.solver.holding import best_cached, is_held, may_hold
from kvhorizon.solver.ranking import LATE_FIRST, TRIED, best_place, oldest_place, rank_waiting
from kvhorizon.solver.reordering import (
    ADMITTED,
    CARE,
    DEEP,
    OWED,
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
def build_profile(columns, curves, running, num_running, chosen, half_block, shared, desk):  # type: ignore[no-untyped-def]
    """Expected tokens of the running requests and of those just chosen, at each horizon.

    The `shared` tokens that they hold together are there once, and taken to stay.
    """
    desk.mean[:] = shared
    desk.variance[:] = 0.0
    for i in range(num_running):
        add_to_profile(columns, curves, running[i], half_block, desk)
    for i in range(chosen):
        add_to_profile(columns, curves, desk.chosen[i], half_block, desk)


@compiled
def leaves_reserve(columns, curves, rule, desk, n, sure, oldest, occupied, pool, half_block, average, profile):  # type: ignore[no-untyped-def]
    """Whether request n fits besides the reserve; if `sure`, besides the least one and what the batch is to grow by.

    `profile` holds (running, num_running, chosen, shared, caution, ready): for lazy building, and the share of all
    reserves that is kept.

    The forecast is only consulted between the least and the greatest reserve; outside it cannot matter.
    """
    running, num_running, chosen, shared, care, ready = profile
    own = own_tokens(columns, n)
    spare = pool - occupied - own
    if spare < care * rule.reserve_min_share * pool:
        return False, ready
    growth = care * growth_reserve(rule, num_running + chosen + 1, pool)
    cap = 0.0 if sure else care * reserve_cap(rule, oldest, columns.remaining[n], average) * pool
    if spare >= max(cap, growth):
        return True, ready
    if not ready:
        build_profile(columns, curves, running, num_running, chosen, half_block, shared, desk)
    if spare < growth and spare < rule.growth_spread * math.sqrt(desk.variance[0]):
        return False, True
    if spare >= cap:
        return True, True
    survive_each(curves, n, columns.generated[n], HORIZONS, columns.limit[n], desk.survival)
    excess = own_horizon_excess(desk.survival, desk.mean, desk.variance, rule.z, own, half_block, occupied)
    return spare >= excess, True


@compiled
def choose_admissions(columns, curves, rule, running, num_running, room, desk, num_waiting):  # type: ignore[no-untyped-def]
    """Fill `desk.chosen` and `desk.overtakes`; returns how many were chosen.

    Never leaves an idle engine idle: with nothing running, the first candidate that fits is taken.
    """
    pool = float(room.total_blocks * room.block_size)
    half_block = 0.5 * room.block_size
    average = rank_waiting(columns, rule, room, desk, num_waiting)
    queued = note_places(columns, desk, num_waiting)
    care = caution(columns, rule, room, running, num_running, num_waiting)
    desk.owed[CARE] = care
    free = room.free_blocks - room.owed_blocks
    budget = room.token_budget
    used = float(room.used_blocks * room.block_size)
    deep = max(queued - DEEP * used, 0.0)
    shared = shared_in_use(columns, running, num_running, used, room.block_size)
    lent = float(overtaking_tokens(columns, running, num_running, room.block_size)) if rule.budgeted else 0.0
    chosen = 0
    failures = 0
    oldest_waits = False  # the oldest request did not fit: memory is being kept for it
    ready = False
    holds = may_hold(columns, rule, running, num_running, desk.waiting, num_waiting, room)
    held = False  # a request is held back: from now on only those that are never held are tried
    best = best_place(desk, num_waiting)
    first = oldest_place(columns, desk, num_waiting) if rule.budgeted else -1
    while budget > 0 and chosen < room.seats and failures <= rule.tries:
        if best >= 0 and desk.keys[best] == TRIED:
            best = best_place(desk, num_waiting)
        if first >= 0 and desk.waiting[first] < 0:
            first = oldest_place(columns, desk, num_waiting)
        oldest = -1 if oldest_waits else first
        occupied = float((room.total_blocks - free) * room.block_size)
        place, overtakes, plenty, overdue = best, False, False, False
        if rule.budgeted:
            warm = best >= 0 and rule.cached and is_warm(columns, desk.waiting[best])
            share = rule.overdue_warm if warm else rule.overdue_share
            overdue = oldest >= 0 and is_overdue(columns, desk, desk.waiting[oldest], share, queued if warm else deep)
            place, overtakes, plenty = whose_turn(
                columns, rule, desk, best, oldest, oldest_waits, overdue, lent, occupied, pool
            )
        if held:
            place, overtakes, plenty = best_cached(columns, desk, num_waiting), False, False
        if place < 0:
            break
        n = desk.waiting[place]
        late = desk.keys[place] < LATE_FIRST
        if holds and not held and not late and is_held(columns, rule, desk, n, occupied, queued, room):
            held = True
            continue
        wanted = blocks_to_take(columns, n, room.block_size)
        fits = wanted <= free
        if fits and num_running + chosen > 0:
            profile = (running, num_running, chosen, shared, care, ready)
            sure = late or (desk.rank[n] > 0 and columns.remaining[n] <= rule.sure_outputs * average)
            fits, ready = leaves_reserve(
                columns, curves, rule, desk, n, sure, place == oldest, occupied, pool, half_block, average, profile
            )
        desk.keys[place] = TRIED
        if not fits:
            if overdue or late:
                break
            failures += 1
            oldest_waits = oldest_waits or place == oldest
            continue
        desk.waiting[place] = -1
        desk.chosen[chosen] = n
        desk.overtakes[chosen] = 1 if overtakes else 0
        chosen += 1
        free -= wanted
        desk.owed[ADMITTED] += own_tokens(columns, n)
        budget -= min(prefill_tokens(columns, n), budget)
        if overtakes:
            lent += own_tokens(columns, n)
        if plenty:
            desk.owed[OWED] = owed_after(rule, prefill_tokens(columns, n), overtakes, desk.owed[OWED])
        if ready:
            add_to_profile(columns, curves, n, half_block, desk)
    return chosen


@compiled
def victim_row(columns, curves, rule, cost, n, now_s, oldest_age_s):  # type: ignore[no-untyped-def]
    """Victim score of running request n."""
    generated = columns.generated[n]
    return victim_score(
        cost,
        rule,
        own_tokens(columns, n),
        generated,
        mean_remaining(curves, n, generated, columns.limit[n]),
        max(now_s - columns.arrival_s[n], 0.0),
        columns.preemptions[n],
        columns.overtaker[n],
        columns.weight[n],
        oldest_age_s,
    )


@compiled
def refresh_remaining(columns, curves, waiting, num_waiting):  # type: ignore[no-untyped-def]
    """Predict anew how much output the waiting requests will still give [tokens]."""
    for i in range(num_waiting):
        n = waiting[i]
        columns.remaining[n] = mean_remaining(curves, n, columns.generated[n], columns.limit[n])
