"""The waiting queue: a doubly linked list over request indices, so that any request leaves in constant time."""

from numba import njit

from kvhorizon.sim.arrays import HEAD, NOBODY, TAIL, WAITING


@njit(cache=True)
def push_back(engine, n):  # type: ignore[no-untyped-def]
    """A new arrival joins at the end."""
    live, count = engine.live, engine.counters
    live.older[n] = count[TAIL]
    live.newer[n] = NOBODY
    if count[TAIL] == NOBODY:
        count[HEAD] = n
    else:
        live.newer[count[TAIL]] = n
    count[TAIL] = n
    count[WAITING] += 1


@njit(cache=True)
def push_front(engine, n):  # type: ignore[no-untyped-def]
    """A preempted request goes before all others."""
    live, count = engine.live, engine.counters
    live.newer[n] = count[HEAD]
    live.older[n] = NOBODY
    if count[HEAD] == NOBODY:
        count[TAIL] = n
    else:
        live.older[count[HEAD]] = n
    count[HEAD] = n
    count[WAITING] += 1


@njit(cache=True)
def remove(engine, n):  # type: ignore[no-untyped-def]
    """Take request n out, wherever it stands."""
    live, count = engine.live, engine.counters
    before, after = live.older[n], live.newer[n]
    if before == NOBODY:
        count[HEAD] = after
    else:
        live.newer[before] = after
    if after == NOBODY:
        count[TAIL] = before
    else:
        live.older[after] = before
    count[WAITING] -= 1
