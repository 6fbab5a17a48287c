"""The loop that all baselines share: the least key among those untried, the test, the admission, so many failures."""

from kvhorizon.compiled.compiler import inside
from kvhorizon.sim.engine.arrays import HEAD, NO_REQUEST, NOW, PREEMPTED, RUNNING, STEPS
from kvhorizon.sim.engine.prefix import look_up
from kvhorizon.sim.engine.step import admit, fits_now
from kvhorizon.sim.policies.baselines.admission import admissible, update_ratio
from kvhorizon.sim.policies.baselines.codes import NEW_TOKEN_RATIO, SHORTEST_TOTAL
from kvhorizon.sim.policies.baselines.memory import AVERAGE, LAST_PREEMPTED, LAST_STEP, PASS_TOKENS, READY, note_wait
from kvhorizon.sim.policies.baselines.order import rank_queue
from kvhorizon.solver.heuristic.order import TRIED, best_place


@inside
def observe(engine, rules):  # type: ignore[no-untyped-def]
    """Before each step: which requests the engine preempted in the last one, whose promotion is over, the new-token
    ratio."""
    notes, count, lists = rules.notes, engine.counters, engine.lists
    if rules.admission == NEW_TOKEN_RATIO:
        update_ratio(engine, rules)
    if rules.order == SHORTEST_TOTAL:
        for i in range(count[RUNNING]):
            n = lists.running[i]
            if count[STEPS] - notes.since_step[n] >= rules.quantum:
                notes.promoted[n] = 0
    notes.state[LAST_STEP] = count[STEPS]
    if count[PREEMPTED] > notes.state[LAST_PREEMPTED]:
        notes.state[LAST_PREEMPTED] = count[PREEMPTED]
        n = engine.counters[HEAD]
        while n != NO_REQUEST and engine.columns.preemptions[n] > notes.seen_preemptions[n]:
            note_wait(notes, n, engine.columns.preemptions[n], engine.clock[NOW], count[STEPS] - 1)
            n = engine.live.newer[n]


@inside
def begin_pass(engine, rules, scratch, size):  # type: ignore[no-untyped-def]
    """Forget what the last look at the queue assumed."""
    state = rules.notes.state
    state[PASS_TOKENS] = 0.0
    state[READY] = 0.0
    total = 0.0
    for i in range(size):
        total += engine.columns.remaining[scratch.waiting[i]]
    state[AVERAGE] = total / max(size, 1)


@inside
def admit_by_baseline(engine, curves, rules, scratch, budget):  # type: ignore[no-untyped-def]
    """Let requests in by the policy's order and test; returns how many entered.

    Never leaves an idle engine idle: with nothing running, the first in order that the engine accepts is taken.
    """
    size = rank_queue(engine, curves, rules, scratch)
    look_up(engine, engine.cache, scratch.waiting, size)
    begin_pass(engine, rules, scratch, size)
    failures = 0
    admitted = 0
    while failures <= rules.skip:
        place = best_place(scratch, size)
        if place < 0:
            break
        n = scratch.waiting[place]
        scratch.keys[place] = TRIED
        idle = engine.counters[RUNNING] == 0
        if fits_now(engine, n, budget) and (idle or admissible(engine, curves, rules, scratch, n)):
            budget = admit(engine, n, budget)
            rules.notes.since_step[n] = engine.counters[STEPS]
            admitted += 1
        else:
            failures += 1
    return admitted
