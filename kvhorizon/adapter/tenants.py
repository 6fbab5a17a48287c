"""The weights of live requests, as their tenants' shares of the KV make them; brought up to date once per tick."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.rows import Rows, Slots
from kvhorizon.models.classes import Classes
from kvhorizon.models.shares import ledger_of


class TenantShares:
    """Of one engine. Whoever is not named in the settings is of one tenant without a share, the last."""

    def __init__(self, classes: Classes, rows: Rows) -> None:
        self.names = tuple(classes.tenants)
        self._ledger = ledger_of((*self.names, ""), classes)
        self._number = {name: number for number, name in enumerate(self.names)}
        self._rows = rows
        self._tenant: NDArray[np.int64] = np.zeros(0, np.int64)  # by slot
        self._weight = np.zeros(0)  # of the request's class, by slot

    @property
    def factors(self) -> dict[str, float]:
        """What the weights of each tenant's requests are multiplied by, as of the last tick."""
        return dict(zip(self.names, self._ledger.factor.tolist(), strict=False))

    def note(self, slot: int, tenant: str, weight: float) -> None:
        """The request in `slot` is of this tenant, and by its class of this weight."""
        missing = len(self._rows.request) - len(self._tenant)
        if missing > 0:
            self._tenant = np.concatenate([self._tenant, np.zeros(missing, np.int64)])
            self._weight = np.concatenate([self._weight, np.ones(missing)])
        number = self._number.get(tenant, len(self.names))
        self._tenant[slot], self._weight[slot] = number, weight
        self._rows.columns.weight[slot] = weight * self._ledger.factor[number]

    def refresh(self, running: Slots) -> None:
        """Once per tick, with the rows' columns as of now."""
        columns, tenant = self._rows.columns, self._tenant
        self._ledger.see(tenant[running], columns.blocks[running], tenant[self._rows.waiting()])
        columns.weight[: len(tenant)] = self._weight * self._ledger.factor[tenant]


def shares_of(classes: Classes, rows: Rows) -> TenantShares | None:
    """None where no shares were agreed."""
    return TenantShares(classes, rows) if classes.tenants else None
