"""A length history that notices drift and then falls back to a floor.

On an alarm all evidence is cut to a few requests' weight: the forecast is then mostly the wide belief that a start
begins with, and what ends or runs in the next seconds outweighs what was. Requests longer than forecast are the danger
(memory runs out), and cut it the most; shorter ones are less urgent, and those that began before the change are still
there to be forecast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.history.drift import DriftDetector
from kvhorizon.models.forecast.history.history import MEMORY, ROOT, UNIT_TOKENS, LengthHistory
from kvhorizon.models.forecast.lognormal import DEFAULT_PRIOR, LogNormalPrior

FLOOR_REQUESTS = 16.0  # evidence left where requests became longer
SHORTER_REQUESTS = 1000.0  # where they became shorter
LOOK_EVERY = 16  # finished requests between two looks

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class GuardedHistory(LengthHistory):
    """As `LengthHistory`; `drifts` counts the alarms, `on_floor` tells whether the last was just now."""

    def __init__(self, rows: int = 64, prior: LogNormalPrior = DEFAULT_PRIOR, memory: float = MEMORY) -> None:
        super().__init__(rows, prior, memory)
        self.detector = DriftDetector()
        self.drifts = 0
        self._unlooked = 0
        self._watched = False  # then sums are whole only once all that runs was seen as well

    @property
    def on_floor(self) -> bool:
        """Whether the forecast still rests on less than it did before the last alarm."""
        return self.drifts > 0 and self.detector.finished < 4 * FLOOR_REQUESTS

    def seed(self, keys: IntArray, lengths: IntArray) -> None:
        """Take in n lengths from before, past the drift detection."""
        super().learn(keys, lengths)

    def learn(self, keys: IntArray, lengths: IntArray, capped: NDArray[np.bool_] | None = None) -> bool:
        """See `LengthHistory.learn`; True if a table changed, or all did because of drift."""
        paths = self.paths(keys, remember=True)
        rows = self.rows_on(paths)
        if capped is None:
            self.detector.ended(self.survival, rows, UNIT_TOKENS, lengths)
        else:
            self.detector.ended(self.survival, rows[~capped], UNIT_TOKENS, lengths[~capped])
        changed = self.learn_on(paths, lengths, capped)
        self._unlooked += len(lengths)
        if self._unlooked >= LOOK_EVERY and not self._watched:
            changed |= self._look()
        return changed

    def watch(self, keys: IntArray, generated: IntArray) -> None:
        """See `LengthHistory.watch`."""
        self._watched = True
        self.detector.running(self.survival, self.rows_of(keys), UNIT_TOKENS, generated)
        drifted = self._look()
        super().watch(keys, generated)
        if drifted:
            self.mapping_version += 1

    def _look(self) -> bool:
        self._unlooked = 0
        evidence = float(self.evidence.total[ROOT] / self.evidence.weight[ROOT])
        if not self.detector.look(evidence):
            return False
        self.drifts += 1
        left = FLOOR_REQUESTS if self.detector.z < 0.0 else SHORTER_REQUESTS
        self.forget(min(1.0, left / max(evidence, left)))
        return True
