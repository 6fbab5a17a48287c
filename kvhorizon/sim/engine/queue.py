"""The waiting queue: a doubly linked list over request indices, so that any request leaves in constant time."""

from kvhorizon.compiled.compiler import compiled, inside
from kvhorizon.sim.engine.arrays import HEAD, NO_REQUEST, TAIL, WAITING


@inside
def push_back(engine, n):  # type: ignore[no-untyped-def]
    """A new arrival joins at the end."""
    live, count = engine.live, engine.counters
    live.older[n] = count[TAIL]
    live.newer[n] = NO_REQUEST
    if count[TAIL] == NO_REQUEST:
        count[HEAD] = n
    else:
        live.newer[count[TAIL]] = n
    count[TAIL] = n
    count[WAITING] += 1


@inside
def push_front(engine, n):  # type: ignore[no-untyped-def]
    """A preempted request goes before all others."""
    live, count = engine.live, engine.counters
    live.newer[n] = count[HEAD]
    live.older[n] = NO_REQUEST
    if count[HEAD] == NO_REQUEST:
        count[TAIL] = n
    else:
        live.older[count[HEAD]] = n
    count[HEAD] = n
    count[WAITING] += 1


@inside
def goes_before(engine, n, m):  # type: ignore[no-untyped-def]
    """Whether request n comes before m by priority (the smaller first), then arrival."""
    priority, arrival_s = engine.live.priority, engine.columns.arrival_s
    if priority[n] != priority[m]:
        return priority[n] < priority[m]
    return arrival_s[n] < arrival_s[m]


@inside
def push_in_order(engine, n):  # type: ignore[no-untyped-def]
    """Into the place that its priority gives; the search begins at the end."""
    live, count = engine.live, engine.counters
    before = count[TAIL]
    while before != NO_REQUEST and (
        goes_before(engine, n, before) or (n < before and not goes_before(engine, before, n))
    ):
        before = live.older[before]
    if before == NO_REQUEST:
        push_front(engine, n)
        return
    after = live.newer[before]
    live.older[n], live.newer[n] = before, after
    live.newer[before] = n
    if after == NO_REQUEST:
        count[TAIL] = n
    else:
        live.older[after] = n
    count[WAITING] += 1


@compiled
def arrive(engine, n):  # type: ignore[no-untyped-def]
    """A new request joins the queue."""
    if engine.limits.by_priority:
        push_in_order(engine, n)
    else:
        push_back(engine, n)


@inside
def return_to_queue(engine, n):  # type: ignore[no-untyped-def]
    """A preempted request joins it again."""
    if engine.limits.by_priority:
        push_in_order(engine, n)
    else:
        push_front(engine, n)


@inside
def remove(engine, n):  # type: ignore[no-untyped-def]
    """Take request n out, wherever it stands."""
    live, count = engine.live, engine.counters
    before, after = live.older[n], live.newer[n]
    if before == NO_REQUEST:
        count[HEAD] = after
    else:
        live.newer[before] = after
    if after == NO_REQUEST:
        count[TAIL] = before
    else:
        live.older[after] = before
    count[WAITING] -= 1
