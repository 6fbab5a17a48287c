"""What a guest scheduler does around the engine's own step: put victims last, show only the admissions it chose."""

from typing import NamedTuple

from kvhorizon.models.compiled import inside
from kvhorizon.sim.arrays import FREE, NOW, RUNNING, STEP
from kvhorizon.sim.blocks import blocks_for, would_free
from kvhorizon.sim.look import collect_waiting, owed_blocks
from kvhorizon.sim.prefix import look_up
from kvhorizon.sim.rivals.codes import LAST, OURS
from kvhorizon.sim.rivals.evict import evict_for_better
from kvhorizon.sim.rivals.loop import admit_by_rival, observe
from kvhorizon.sim.rivals.rules import Rules
from kvhorizon.sim.rivals.victim import rival_score
from kvhorizon.sim.step import admit, blocks_wanted, fits_now, next_chunk
from kvhorizon.sim.turns import learned_price, returning_tokens
from kvhorizon.solver.columns import Room
from kvhorizon.solver.greedy import GREEDY, Greedy, Knob, with_prefix_cache
from kvhorizon.solver.select import choose_admissions, victim_row
from kvhorizon.state import StepCost


class Guest(NamedTuple):
    """Who steers, if anyone; compiled code takes it as one argument.

    With and without a rival it is compiled apart, so that what rivals need costs nobody else anything.
    """

    steers: bool  # False: the engine is left alone
    rule: Greedy = GREEDY[Knob.BALANCED]
    rival: Rules | None = None  # someone else's rules; None: ours
    losing: StepCost | None = None  # what undoing an eviction costs; given when at work

    def at_work(self, requests: int, seats: int, cost: StepCost, cached: bool = False) -> "Guest":
        """This guest with memory of its own, for one replay of so many requests; `cached`: with a prefix cache."""
        rival = None if self.rival is None else self.rival.with_notes(requests, seats)
        return self._replace(rival=rival, losing=cost, rule=with_prefix_cache(self.rule) if cached else self.rule)


UNSTEERED = Guest(steers=False)


@inside
def score_by(engine, curves, guest, rival, cost, n, place, oldest_age_s):  # type: ignore[no-untyped-def]
    """The victim score of whoever steers; `rival` is the guest's, told apart so that none compiles to nothing."""
    losing = guest.losing
    if rival is None:
        return victim_row(engine.columns, curves, guest.rule, losing, n, engine.clock[NOW], oldest_age_s)
    if rival.victim == OURS:
        return victim_row(engine.columns, curves, rival.ours, losing, n, engine.clock[NOW], oldest_age_s)
    return rival_score(engine, curves, rival, cost, n, place)


@inside
def prepare(engine, curves, rival, desk):  # type: ignore[no-untyped-def]
    """What a rival does before each step; returns whether it leaves the victims to the engine."""
    if rival is None:
        return False
    observe(engine, rival)
    if rival.preempts:
        evict_for_better(engine, curves, rival, desk)
    return rival.victim == LAST


@inside
def best_victim(engine, curves, guest, cost, candidates, oldest_age_s):  # type: ignore[no-untyped-def]
    """Place in the running list, among the first `candidates`, of the best victim."""
    best = 0
    greatest = -1.0
    for i in range(candidates):
        n = engine.lists.running[i]
        value = score_by(engine, curves, guest, guest.rival, cost, n, i, oldest_age_s)
        if value > greatest:
            greatest = value
            best = i
    return best


@inside
def put_victims_last(engine, curves, guest, cost, desk):  # type: ignore[no-untyped-def]
    """Where this step will lack blocks, move the victims to the end of the running list, the first one last.

    The others keep their order, since that is also the order in which prefills share the token budget.
    """
    columns, lists = engine.columns, engine.lists
    if prepare(engine, curves, guest.rival, desk):
        return
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
        lacking -= max(wanted - columns.blocks[n], 0) + would_free(engine, engine.cache, n)


@inside
def admit_by_ours(engine, curves, rule, losing, desk, budget):  # type: ignore[no-untyped-def]
    """Choose admissions by our rule and let the engine take them by its own; returns how many it took."""
    limits = engine.limits
    seats = limits.max_seqs - engine.counters[RUNNING]
    if seats <= 0 or budget <= 0:
        return 0
    num_waiting = collect_waiting(engine, desk.waiting)[0]
    look_up(engine, engine.cache, desk.waiting, num_waiting)
    prefill_s = learned_price(engine.turns, losing.linear_s_per_token)
    room = Room(
        engine.counters[FREE],
        owed_blocks(engine),
        limits.total_blocks,
        limits.block_size,
        seats,
        budget,
        engine.clock[NOW],
        rule.late_after_s,
        limits.total_blocks - engine.counters[FREE],
        engine.clock[STEP],
        prefill_s,
        returning_tokens(engine, engine.turns, prefill_s),
    )
    running, num_running = engine.lists.running, engine.counters[RUNNING]
    chosen = choose_admissions(engine.columns, curves, rule, running, num_running, room, desk, num_waiting)
    for i in range(chosen):
        n = desk.chosen[i]
        if not fits_now(engine, n, budget):
            return i
        budget = admit(engine, n, budget)
        engine.columns.overtaker[n] = desk.overtakes[i]
        desk.rank[n] = 0
    return chosen


@inside
def admit_by(engine, curves, rule, losing, rival, desk, budget):  # type: ignore[no-untyped-def]
    """Admissions of whoever steers; returns how many."""
    if rival is None:
        return admit_by_ours(engine, curves, rule, losing, desk, budget)
    return admit_by_rival(engine, curves, rival, desk, budget)


@inside
def admit_chosen(engine, curves, guest, desk, budget):  # type: ignore[no-untyped-def]
    """Let in those whom the guest chooses; returns how many."""
    return admit_by(engine, curves, guest.rule, guest.losing, guest.rival, desk, budget)
