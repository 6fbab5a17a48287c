"""What a guest scheduler does around the engine's own step: put victims last, show only the admissions it chose."""

from typing import NamedTuple

from numba import njit

from kvhorizon.models.survival import mean_remaining
from kvhorizon.sim.arrays import FREE, HEAD, NOBODY, NOW, RUNNING
from kvhorizon.sim.step import admit, blocks_for, blocks_wanted, fits_now, known_tokens, next_chunk
from kvhorizon.solver.columns import Room
from kvhorizon.solver.greedy import GREEDY, Greedy, Knob, victim_score
from kvhorizon.solver.select import choose_admissions


class Guest(NamedTuple):
    """Who steers, if anyone; compiled code takes it as one argument."""

    steers: bool  # False: the engine is left alone
    rule: Greedy = GREEDY[Knob.BALANCED]


UNSTEERED = Guest(steers=False)


@njit(cache=True)
def collect_waiting(engine, waiting):  # type: ignore[no-untyped-def]
    """Write the waiting queue into `waiting`; returns (how many, age of the oldest [s])."""
    n = engine.counters[HEAD]
    size = 0
    oldest = engine.clock[NOW]
    while n != NOBODY:
        waiting[size] = n
        oldest = min(oldest, engine.columns.arrival_s[n])
        size += 1
        n = engine.live.newer[n]
    return size, engine.clock[NOW] - oldest


@njit(cache=True)
def best_victim(engine, curves, guest, cost, candidates, oldest_age_s):  # type: ignore[no-untyped-def]
    """Place in the running list, among the first `candidates`, of the best victim."""
    columns = engine.columns
    best = 0
    greatest = -1.0
    for i in range(candidates):
        n = engine.lists.running[i]
        generated = columns.generated[n]
        score = victim_score(
            cost,
            guest.rule,
            known_tokens(engine, n),
            generated,
            mean_remaining(curves, n, generated, columns.limit[n]),
            engine.clock[NOW] - columns.arrival_s[n],
            columns.preemptions[n],
            columns.overtaker[n],
            oldest_age_s,
        )
        if score > greatest:
            greatest = score
            best = i
    return best


@njit(cache=True)
def put_victims_last(engine, curves, guest, cost, desk):  # type: ignore[no-untyped-def]
    """Where this step will lack blocks, move the victims to the end of the running list, the first one last.

    The others keep their order, since that is also the order in which prefills share the token budget.
    """
    columns, lists = engine.columns, engine.lists
    lacking = blocks_wanted(engine) - engine.counters[FREE]
    if lacking <= 0:
        return
    oldest_age_s = collect_waiting(engine, desk.waiting)[1]
    end = engine.counters[RUNNING]
    while lacking > 0 and end > 1:
        place = best_victim(engine, curves, guest, cost, end, oldest_age_s)
        n = lists.running[place]
        for i in range(place, end - 1):
            lists.running[i] = lists.running[i + 1]
        end -= 1
        lists.running[end] = n
        tokens = next_chunk(engine, n, columns.computed[n], engine.limits.max_tokens)[0]
        wanted = blocks_for(columns.computed[n] + tokens, engine.limits.block_size)
        lacking -= max(wanted, columns.blocks[n])


@njit(cache=True)
def owed_blocks(engine):  # type: ignore[no-untyped-def]
    """Blocks that prefills in flight will still take."""
    owed = 0
    for i in range(engine.counters[RUNNING]):
        n = engine.lists.running[i]
        owed += max(0, blocks_for(known_tokens(engine, n), engine.limits.block_size) - engine.columns.blocks[n])
    return owed


@njit(cache=True)
def admit_chosen(engine, curves, guest, desk, budget):  # type: ignore[no-untyped-def]
    """Choose admissions by the rule and let the engine take them by its own; returns how many it took."""
    limits = engine.limits
    seats = limits.max_seqs - engine.counters[RUNNING]
    if seats <= 0 or budget <= 0:
        return 0
    num_waiting = collect_waiting(engine, desk.waiting)[0]
    room = Room(
        engine.counters[FREE],
        owed_blocks(engine),
        limits.total_blocks,
        limits.block_size,
        seats,
        budget,
        engine.clock[NOW],
    )
    running, num_running = engine.lists.running, engine.counters[RUNNING]
    chosen = choose_admissions(engine.columns, curves, guest.rule, running, num_running, room, desk, num_waiting)
    for i in range(chosen):
        n = desk.chosen[i]
        if not fits_now(engine, n, budget):
            return i
        budget = admit(engine, n, budget)
        engine.columns.overtaker[n] = desk.overtakes[i]
        desk.rank[n] = 0
    return chosen
