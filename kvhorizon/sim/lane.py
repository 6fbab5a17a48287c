"""How long first-come-first-served would have made requests wait: the bound of rule L's late lane.

A fluid of KV·time stands for the engine under first-come-first-served. Its backlog shrinks by the tokens in use each
step; while it is below half of what the running requests still have before them, the next request in order of arrival
joins it with all its work, and the time for which that one had to wait is known. The bound is the longest wait so far.
"""

from kvhorizon.models.compiled import inside
from kvhorizon.models.survival import mean_remaining
from kvhorizon.sim.arrays import (
    ARRIVED,
    BACKLOG,
    FREE,
    FRONTIER,
    FULL,
    NOW,
    RUNNING,
    STEPS,
    STEPS_SEEN,
    VIRTUAL_WAIT,
)
from kvhorizon.sim.step import known_tokens
from kvhorizon.solver.greedy import kv_time

SMOOTHING = 0.05  # of the moving average of the running requests' work


@inside
def work_before(engine, curves, n):  # type: ignore[no-untyped-def]
    """KV·time that request n still has before it [token·steps]."""
    generated = engine.columns.generated[n]
    return kv_time(known_tokens(engine, n), mean_remaining(curves, n, generated, engine.columns.limit[n]))


@inside
def work_in_all(engine, curves, n):  # type: ignore[no-untyped-def]
    """KV·time of request n from its start, as forecast [token·steps]."""
    return kv_time(engine.columns.prompt[n], mean_remaining(curves, n, 0, engine.columns.limit[n]))


@inside
def forget_queue(engine):  # type: ignore[no-untyped-def]
    """Nobody waits: first-come-first-served would have served all who came."""
    engine.lane[FRONTIER] = engine.counters[ARRIVED]
    engine.lane[STEPS_SEEN] = engine.counters[STEPS]


@inside
def look_on(engine, curves, rule):  # type: ignore[no-untyped-def]
    """Bring the fluid up to this step; returns the longest wait it has made [s], 0 where the rule asks for none."""
    if not rule.late_virtual:
        return 0.0
    lane = engine.lane
    steps = engine.counters[STEPS] - lane[STEPS_SEEN]
    lane[STEPS_SEEN] = engine.counters[STEPS]
    lane[BACKLOG] -= steps * (engine.limits.total_blocks - engine.counters[FREE]) * engine.limits.block_size
    running = 0.0
    for i in range(engine.counters[RUNNING]):
        running += work_before(engine, curves, engine.lists.running[i])
    lane[FULL] += SMOOTHING * (running - lane[FULL]) if lane[FULL] > 0.0 else running
    while lane[BACKLOG] < 0.5 * lane[FULL] and lane[FRONTIER] < engine.counters[ARRIVED]:
        n = int(lane[FRONTIER])
        lane[VIRTUAL_WAIT] = max(lane[VIRTUAL_WAIT], engine.clock[NOW] - engine.columns.arrival_s[n])
        lane[BACKLOG] += work_in_all(engine, curves, n)
        lane[FRONTIER] += 1.0
    lane[BACKLOG] = max(lane[BACKLOG], 0.0)
    return lane[VIRTUAL_WAIT]
