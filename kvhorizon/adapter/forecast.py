"""Forecasts of a live engine: what finished requests taught, and clients' hints, as tables that compiled code reads.

Learning happens wherever `learn` is called, away from the step; the step only swaps in the newest tables.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from kvhorizon.adapter.hints import Hint
from kvhorizon.models.forecast import PROMPT_CLASS_BITS
from kvhorizon.models.history import UNIT_TOKENS, LengthHistory
from kvhorizon.models.survival import lognormal_curve, residual_of
from kvhorizon.state import FloatArray, IntArray

HISTORY_ROWS = 16
HINT_SIGMAS = (0.1, 0.3, 0.6, 1.0, 1.4)  # spreads of hints are rounded up to one of these
_QUEUE_LIMIT = 10_000  # finished requests kept for learning, should nobody learn


class Tables(NamedTuple):
    """One version of the curves; never modified once made."""

    survival: FloatArray  # (rows, G)
    residual: FloatArray  # (rows, G)
    rows: dict[int, int]  # of the keys that have one of their own; others use row 0
    version: int


class Forecaster:
    """`finished` is called by the step; `learn` by a thread beside it; `tables` is the newest version."""

    def __init__(self) -> None:
        self._history = LengthHistory(HISTORY_ROWS)
        self._hints = np.stack([lognormal_curve(sigma) for sigma in HINT_SIGMAS])
        self._hint_residuals = np.stack([residual_of(curve) for curve in self._hints])
        self._seen: set[int] = set()  # keys
        self._queue: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self.tables = self._publish(0)

    def finished(self, key: int, output_tokens: int) -> None:
        """Note how long a request became."""
        if output_tokens > 0 and len(self._queue) < _QUEUE_LIMIT:
            with self._lock:
                self._queue.append((key, output_tokens))

    def learn(self) -> bool:
        """Take in all finished requests; True where there are new tables."""
        with self._lock:
            queue, self._queue = self._queue, []
        if not queue:
            return False
        keys: IntArray = np.array([key for key, _ in queue], dtype=np.int64)
        self._seen.update(keys.tolist())
        if not self._history.learn(keys, np.array([length for _, length in queue], dtype=np.int64)):
            return False
        self.tables = self._publish(self.tables.version + 1)
        return True

    def _publish(self, version: int) -> Tables:
        keys = np.array(sorted(self._seen), dtype=np.int64)
        rows = dict(zip(keys.tolist(), self._history.rows_of(keys).tolist(), strict=True))
        self._seen = {key for key, row in rows.items() if row} if len(rows) > 16 * HISTORY_ROWS else self._seen
        return Tables(
            np.concatenate([self._history.survival, self._hints]),
            np.concatenate([self._history.residual, self._hint_residuals]),
            {key: row for key, row in rows.items() if row},
            version,
        )


def key_of(prompt_tokens: int, hint: Hint | None) -> int:
    """The history's key of a request, as `models.forecast.length_key` has it; its hint's class is the tenant."""
    tenant = hint.key if hint is not None else 0
    return 16 * tenant + min((max(prompt_tokens, 1).bit_length() - 1) // PROMPT_CLASS_BITS, 15)


def curve_of(tables: Tables, key: int, hint: Hint | None) -> tuple[int, float]:
    """Table row of a request, and tokens per unit of its curve."""
    if hint is None or hint.median_tokens <= 0.0:
        return tables.rows.get(key, 0), UNIT_TOKENS
    place = int(np.searchsorted(HINT_SIGMAS, hint.log_sigma))
    return HISTORY_ROWS + min(place, len(HINT_SIGMAS) - 1), hint.median_tokens
