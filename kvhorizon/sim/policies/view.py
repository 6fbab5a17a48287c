"""What a plugin sees of the engine."""

from kvhorizon.compiled.compiler import compiled, inside
from kvhorizon.sim.engine.arrays import HEAD, NO_REQUEST, NOW, RUNNING
from kvhorizon.sim.engine.blocks import blocks_for
from kvhorizon.sim.engine.step import known_tokens


@compiled
def collect_waiting(engine, waiting):  # type: ignore[no-untyped-def]
    """Write the waiting queue into `waiting`; returns (how many, age of the oldest [s])."""
    n = engine.counters[HEAD]
    size = 0
    oldest = engine.clock[NOW]
    while n != NO_REQUEST:
        waiting[size] = n
        oldest = min(oldest, engine.columns.arrival_s[n])
        size += 1
        n = engine.live.newer[n]
    return size, engine.clock[NOW] - oldest


@inside
def owed_blocks(engine):  # type: ignore[no-untyped-def]
    """Blocks that prefills in flight will still take."""
    owed = 0
    for i in range(engine.counters[RUNNING]):
        n = engine.lists.running[i]
        owed += max(0, blocks_for(known_tokens(engine, n), engine.limits.block_size) - engine.columns.blocks[n])
    return owed
