"""Which evictions of a plan are carried out: one rule for the simulated and the live engine (decision 008)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.heuristic.params import Greedy
from kvhorizon.solver.program.settings import EVICT_OCCUPANCY, EVICT_PER_PLAN, EVICT_RESIDENCY_S

IntArray = NDArray[np.int64]


class Gates(NamedTuple):
    """What must hold for any request to be evicted ahead of need."""

    occupancy: float = EVICT_OCCUPANCY  # of the pool
    residency_s: float = EVICT_RESIDENCY_S  # of who goes, since it was let in


class Pool(NamedTuple):
    """KV blocks of an engine, and how many requests run."""

    free_blocks: int
    total_blocks: int
    num_running: int


class Asked(NamedTuple):
    """Running requests that a plan wants evicted, in its order, (n,) each."""

    slot: IntArray  # or whatever they are known by
    resident_s: NDArray[np.float64]  # since they were let in
    out_of_order: NDArray[np.uint8]  # 1: let in before an older waiting request


def carried_out(asked: Asked, pool: Pool, rule: Greedy, gates: Gates) -> IntArray:
    """Slots of those who go: of the plan's first, whoever the gates let go.

    No request while the pool has room, and not the only one that runs. Where the `rule` keeps a budget of reordering,
    memory was granted to requests out of order: of them only.
    """
    if pool.free_blocks > (1.0 - gates.occupancy) * pool.total_blocks or pool.num_running < 2:
        return asked.slot[:0]
    may_go = asked.resident_s >= gates.residency_s
    if rule.budgeted:
        may_go &= asked.out_of_order != 0
    return asked.slot[:EVICT_PER_PLAN][may_go[:EVICT_PER_PLAN]]
