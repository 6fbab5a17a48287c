"""The weights of live requests, as tenants' shares and classes' promises make them: renewed once per tick."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.models.slo.classes import Classes
from kvhorizon.models.slo.tenant_shares import ledger_of
from kvhorizon.models.slo.urgency import NO_TARGET_S
from kvhorizon.solver.weights import renew


class Weights:
    """Of one engine. Whoever is not named in the settings is of one tenant without a share, the last."""

    def __init__(self, classes: Classes, rows: Rows) -> None:
        self.names = tuple(classes.tenants)
        self._ledger = ledger_of((*self.names, ""), classes)
        self._number = {name: number for number, name in enumerate(self.names)}
        self._rows = rows
        self._tenant: NDArray[np.int64] = np.zeros(0, np.int64)  # by slot
        self._weight = np.zeros(0)  # of the request's class, by slot
        self._target_s = np.zeros(0)  # to its first token, by slot

    @property
    def factors(self) -> dict[str, float]:
        """What the weights of each tenant's requests are multiplied by, as of the last tick."""
        return dict(zip(self.names, self._ledger.factor.tolist(), strict=False))

    def note(self, slot: int, tenant: str, weight: float, ttft_s: float | None) -> None:
        """The request in `slot` is of this tenant; its class has this weight and promises a first token so soon."""
        missing = len(self._rows.request) - len(self._tenant)
        if missing > 0:
            self._tenant = np.concatenate([self._tenant, np.zeros(missing, np.int64)])
            self._weight = np.concatenate([self._weight, np.ones(missing)])
            self._target_s = np.concatenate([self._target_s, np.full(missing, NO_TARGET_S)])
        number = self._number.get(tenant, len(self.names))
        self._tenant[slot], self._weight[slot] = number, weight
        self._target_s[slot] = NO_TARGET_S if ttft_s is None else ttft_s
        self._rows.columns.weight[slot] = weight * self._ledger.factor[number]

    def refresh(self, running: Slots, now_s: float) -> None:
        """Once per tick, with the rows' columns as of now."""
        known = self._weight, self._tenant, self._target_s, self._ledger
        renew(self._rows.columns, *known, running, self._rows.waiting(), now_s)


def weights_for(classes: Classes, rows: Rows) -> Weights | None:
    """None where no shares were agreed and no first tokens promised."""
    return Weights(classes, rows) if classes.tenants or classes.urges else None
