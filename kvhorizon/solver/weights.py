"""The weights of an engine's requests, renewed: one rule for the simulated and the live engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.slo.tenant_shares import Ledger
from kvhorizon.models.slo.urgency import urgency
from kvhorizon.solver.heuristic.columns import Columns

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def renew(
    columns: Columns,
    weight: FloatArray,
    tenant: IntArray,
    target_s: FloatArray,
    ledger: Ledger,
    running: NDArray[np.int32],
    waiting: NDArray[np.int32],
    now_s: float,
) -> None:
    """Set the columns' weights of all requests: `weight` (N,) of their classes, by shares and promised first tokens.

    `tenant` and `target_s` (N,) are theirs, `running` and `waiting` say which of them are in the engine now.
    """
    ledger.see(tenant[running], columns.blocks[running], tenant[waiting])
    columns.weight[: len(weight)] = weight * ledger.factor[tenant]
    first = waiting[columns.generated[waiting] == 0]
    columns.weight[first] *= urgency(now_s - columns.arrival_s[first], target_s[first])
