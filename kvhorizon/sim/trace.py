"""A request trace: columns, sorted by arrival."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """N requests. `key` numbers the tenant or client (0 where unknown); `prefix_hashes` has one array per request.

    `prefix_tokens` is the number of prompt tokens one prefix hash stands for (0: the trace has none).
    """

    name: str
    sha256: str  # of the columns, so that results name their input
    arrival_s: FloatArray  # (N,) ascending, first is 0
    prompt_tokens: IntArray  # (N,) >= 1
    output_tokens: IntArray  # (N,) >= 1
    key: IntArray  # (N,)
    prefix_hashes: tuple[IntArray, ...] | None = None
    prefix_tokens: int = 0
    session: IntArray | None = None  # (N,) conversation that a request continues
    priority: IntArray | None = None  # (N,) the smaller the sooner, for engines that schedule by it
    began_s: float | None = None  # seconds since 1970 at arrival_s = 0, where that is known
    sampling: IntArray | None = None  # (N,) kinds of sampling as in `models.features.Recorded`; -1 where unknown
    slo_class: tuple[str, ...] | None = None  # (N,) class of service that a request names, "" where it names none
    key_names: tuple[str, ...] = ()  # of the tenants by number, where they have names

    @property
    def tenants(self) -> tuple[str, ...]:
        """Names of all tenants by number; the number, where there is none."""
        return (*self.key_names, *map(str, range(len(self.key_names), int(self.key.max(initial=0)) + 1)))

    def __len__(self) -> int:
        return len(self.arrival_s)
