"""The rolling-horizon program as arrays: requests × options × buckets. `docs/how-it-works/program.md` derives and
explains it.

Time ahead is cut into K buckets at T_0 = 0 < T_1 < … < T_K steps. A request n picks one option: to hold its memory from
admission point a on (point 0 is now; point a lies at the start t_a of bucket k_a), or not within the horizon (∅). For a
running request that may be evicted point 0 keeps it; a later one evicts it now and resumes it then. Running requests
that must stay are no rows; what they will hold is taken off the limits.

    min  Σ_n c_n∅ + Σ_{n,a} (c_na − c_n∅)·x_na + Σ_k π_k·v_k              [weighted seconds of delay]
    s.t. Σ_a x_na ≤ 1                                 each request n
         Σ_{n,a} P_nak·x_na − v_k ≤ M_k   [blocks]    each bucket k,  v_k ≥ 0
         Σ_{n,a} Q_nak·x_na ≤ N_k         [sequences] each bucket k
         Σ_n prefill_na·x_na ≤ budget_a   [tokens]    each admission point a
         Σ_n held_n·x_n0 ≤ present        [blocks]    what is held at the start of the next step exists

Overflow of a forecast bucket costs π_k per block, what evicting a block costs; the other constraints are hard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.state import HandleArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NEVER = -1  # in a choice: not within the horizon
NO_REQUEST = -1  # in `Problem.rows`: an empty row


class Tables(NamedTuple):
    """The program's numbers, as compiled code takes them: N requests, running ones first, A points, K buckets.

    Limits are what is left beside the running requests that stay. Empty rows have no option and cost nothing.
    """

    cost: FloatArray  # (N, A) c_na, weighted seconds; inf where the option does not exist
    cost_never: FloatArray  # (N,) c_n∅; inf where the request must hold memory
    blocks: FloatArray  # (N, A, K) P_nak, chance-adjusted; 0 for k < k_a
    sequences: FloatArray  # (N, A, K) Q_nak, expected
    prefill_tokens: FloatArray  # (N, A)
    held_blocks: FloatArray  # (N,) taken at once by option 0
    capacity_blocks: FloatArray  # (K,) M_k
    max_sequences: FloatArray  # (K,) N_k
    prefill_budget_tokens: FloatArray  # (A,)
    present_blocks: FloatArray  # (1,) held by running requests that may be evicted, or free
    overflow_price: FloatArray  # (K,) π_k, weighted seconds per block
    admission_bucket: IntArray  # (A,) k_a, ascending from 0


class Turned(NamedTuple):
    """Uses by option, to price one option of all requests in a row; there may be more than N columns."""

    blocks: FloatArray  # (A, K, >= N)
    sequences: FloatArray  # (A, K, >= N)


@dataclass(frozen=True, slots=True)
class Problem:
    """`Tables`, and what ties them to the snapshot. From a `Builder` it is good until that builds the next."""

    tables: Tables
    bucket_steps: FloatArray  # (K + 1,) T_k
    num_running: int  # rows that running requests may have
    rows: IntArray  # (N,) index of each request in the snapshot, NO_REQUEST for an empty row
    handle: HandleArray  # (N,)
    key: FloatArray  # (N,) the greedy's order, least first
    eviction_loss: FloatArray  # (R,) weighted seconds that evicting each running request costs, its own delay apart
    turned: Turned

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, A, K)."""
        n, a, k = self.tables.blocks.shape
        return n, a, k

    @property
    def point_steps(self) -> FloatArray:
        """(A,) steps until each admission point."""
        return self.bucket_steps[self.tables.admission_bucket]


def turn(tables: Tables) -> Turned:
    """The uses of a program that no `Builder` made."""
    return Turned(
        np.ascontiguousarray(tables.blocks.transpose(1, 2, 0)),
        np.ascontiguousarray(tables.sequences.transpose(1, 2, 0)),
    )
