"""What a scheduler plugin does around the engine's own step: put victims last, show only the admissions it chose."""

from typing import NamedTuple

from kvhorizon.compiled.compiler import inside
from kvhorizon.sim.engine.arrays import FREE, NOW, RUNNING, STEP
from kvhorizon.sim.engine.blocks import blocks_for, would_free
from kvhorizon.sim.engine.prefix import look_up
from kvhorizon.sim.engine.step import admit, blocks_wanted, fits_now, next_chunk
from kvhorizon.sim.engine.turns import learned_price, returning_tokens
from kvhorizon.sim.policies.baselines.codes import LAST, OURS
from kvhorizon.sim.policies.baselines.evict import evict_for_better
from kvhorizon.sim.policies.baselines.loop import admit_by_baseline, observe
from kvhorizon.sim.policies.baselines.rules import Rules
from kvhorizon.sim.policies.baselines.victim import baseline_score
from kvhorizon.sim.policies.view import collect_waiting, owed_blocks
from kvhorizon.solver.heuristic.admission import choose_admissions, victim_row
from kvhorizon.solver.heuristic.columns import Room
from kvhorizon.solver.heuristic.params import GREEDY, Greedy, Knob, with_prefix_cache
from kvhorizon.state import StepCost


class Plugin(NamedTuple):
    """Who steers, if anyone; compiled code takes it as one argument.

    With and without a baseline it is compiled apart, so that what baselines need costs no other anything.
    """

    steers: bool  # False: the engine is left alone
    rule: Greedy = GREEDY[Knob.BALANCED]
    baseline: Rules | None = None  # a baseline's rules; None: ours
    losing: StepCost | None = None  # what undoing an eviction costs; given when at work

    def at_work(self, requests: int, seats: int, cost: StepCost, cached: bool = False) -> "Plugin":
        """This plugin with memory of its own, for one replay of so many requests; `cached`: with a prefix cache."""
        baseline = None if self.baseline is None else self.baseline.with_notes(requests, seats)
        return self._replace(baseline=baseline, losing=cost, rule=with_prefix_cache(self.rule) if cached else self.rule)


UNSTEERED = Plugin(steers=False)


@inside
def score_by(engine, curves, plugin, baseline, cost, n, place, oldest_age_s):  # type: ignore[no-untyped-def]
    """The victim score of whoever steers; `baseline` is the plugin's, told apart so that none compiles to nothing."""
    losing = plugin.losing
    if baseline is None:
        return victim_row(engine.columns, curves, plugin.rule, losing, n, engine.clock[NOW], oldest_age_s)
    if baseline.victim == OURS:
        return victim_row(engine.columns, curves, baseline.ours, losing, n, engine.clock[NOW], oldest_age_s)
    return baseline_score(engine, curves, baseline, cost, n, place)


@inside
def prepare(engine, curves, baseline, scratch):  # type: ignore[no-untyped-def]
    """What a baseline does before each step; returns whether it leaves the victims to the engine."""
    if baseline is None:
        return False
    observe(engine, baseline)
    if baseline.preempts:
        evict_for_better(engine, curves, baseline, scratch)
    return baseline.victim == LAST


@inside
def best_victim(engine, curves, plugin, cost, candidates, oldest_age_s):  # type: ignore[no-untyped-def]
    """Place in the running list, among the first `candidates`, of the best victim."""
    best = 0
    greatest = -1.0
    for i in range(candidates):
        n = engine.lists.running[i]
        value = score_by(engine, curves, plugin, plugin.baseline, cost, n, i, oldest_age_s)
        if value > greatest:
            greatest = value
            best = i
    return best


@inside
def put_victims_last(engine, curves, plugin, cost, scratch):  # type: ignore[no-untyped-def]
    """Where this step will lack blocks, move the victims to the end of the running list, the first one last.

    The others keep their order, since that is also the order in which prefills share the token budget.
    """
    columns, lists = engine.columns, engine.lists
    if prepare(engine, curves, plugin.baseline, scratch):
        return
    lacking = blocks_wanted(engine) - engine.counters[FREE]
    if lacking <= 0:
        return
    oldest_age_s = collect_waiting(engine, scratch.waiting)[1]
    end = engine.counters[RUNNING]
    while lacking > 0 and end > 1:
        place = best_victim(engine, curves, plugin, cost, end, oldest_age_s)
        n = lists.running[place]
        for i in range(place, end - 1):
            lists.running[i] = lists.running[i + 1]
        end -= 1
        lists.running[end] = n
        tokens = next_chunk(engine, n, columns.computed[n], engine.limits.max_tokens)[0]
        wanted = blocks_for(columns.computed[n] + tokens, engine.limits.block_size)
        lacking -= max(wanted - columns.blocks[n], 0) + would_free(engine, engine.cache, n)


@inside
def admit_by_ours(engine, curves, rule, losing, scratch, budget):  # type: ignore[no-untyped-def]
    """Choose admissions by our rule and let the engine take them by its own; returns how many it took."""
    limits = engine.limits
    seats = limits.max_seqs - engine.counters[RUNNING]
    if seats <= 0 or budget <= 0:
        return 0
    num_waiting = collect_waiting(engine, scratch.waiting)[0]
    look_up(engine, engine.cache, scratch.waiting, num_waiting)
    prefill_s = learned_price(engine.turns, losing.linear_s_per_token)
    room = Room(
        engine.counters[FREE],
        owed_blocks(engine),
        limits.total_blocks,
        limits.block_size,
        seats,
        budget,
        engine.clock[NOW],
        rule.order.late_after_s,
        limits.total_blocks - engine.counters[FREE],
        engine.clock[STEP],
        prefill_s,
        returning_tokens(engine, engine.turns, prefill_s),
    )
    running, num_running = engine.lists.running, engine.counters[RUNNING]
    chosen = choose_admissions(engine.columns, curves, rule, running, num_running, room, scratch, num_waiting)
    for i in range(chosen):
        n = scratch.result.chosen[i]
        if not fits_now(engine, n, budget):
            return i
        budget = admit(engine, n, budget)
        engine.columns.out_of_order[n] = scratch.result.overtakes[i]
        scratch.rank[n] = 0
    return chosen


@inside
def admit_by(engine, curves, rule, losing, baseline, scratch, budget):  # type: ignore[no-untyped-def]
    """Admissions of whoever steers; returns how many."""
    if baseline is None:
        return admit_by_ours(engine, curves, rule, losing, scratch, budget)
    return admit_by_baseline(engine, curves, baseline, scratch, budget)


@inside
def admit_chosen(engine, curves, plugin, scratch, budget):  # type: ignore[no-untyped-def]
    """Let in those that the plugin chooses; returns how many."""
    return admit_by(engine, curves, plugin.rule, plugin.losing, plugin.baseline, scratch, budget)
