"""Forecasts of a live engine: what finished and running requests taught, clients' hints where they have earned it.

`models.forecast.history.guarded` holds the history, `models.forecast.hints` what hints are worth,
`adapter.forecasting.keys` says who is alike. The step only notes what happened (`arrived`, `finished`) and swaps in the
newest tables; learning is for a thread beside it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.decode_pace import Pace
from kvhorizon.adapter.forecasting.finished import Ended, Told, ended_of
from kvhorizon.adapter.forecasting.groups import Groups
from kvhorizon.adapter.forecasting.health import ForecastHealth, Promises
from kvhorizon.adapter.forecasting.keys import (
    LEVELS,
    chains_of,
    group_keys,
    hint_chains_of,
    hint_sources_of,
    key_at,
    level_of,
)
from kvhorizon.adapter.forecasting.peaks import PeakWatch
from kvhorizon.adapter.forecasting.running import Running
from kvhorizon.models.forecast.bins import UNIT_TOKENS
from kvhorizon.models.forecast.hints import RATIO_UNIT, Hints, half_octave_score
from kvhorizon.models.forecast.history.guarded import GuardedHistory
from kvhorizon.models.forecast.history.state import load_history, save_history
from kvhorizon.models.forecast.survival import Curves
from kvhorizon.state import FloatArray, IntArray

HISTORY_ROWS, RATIO_ROWS = 48, 16
GROUP_ROWS = 80  # of the history where a trained model has groups
RESERVE_Z = 2.0  # that the rules are made for; corrected by what batches did
HINT_SCALE = UNIT_TOKENS / RATIO_UNIT
_MOST_NOTES = 10_000  # kept for learning, should nothing learn


class Tables(NamedTuple):
    """One version of the curves; never modified once made."""

    survival: FloatArray  # (rows, G): the history's, then those of length / hint
    residual: FloatArray  # (rows, G)
    rows: dict[int, int]  # of the history's keys that have one of their own; others use row 0
    ratio_rows: dict[int, int]  # likewise of the hints' keys, row `first_ratio` for others
    distrusted: frozenset[int]  # sources whose hints are worth less than the history
    z: float  # deviations of a batch's peak to keep in reserve
    tokens_per_step: float  # that a decode gains
    version: int
    first_ratio: int  # row


class Forecaster:
    """`arrived` and `over` are the step's side, `learn` and `watch` the learning thread's; `tables` is the newest
    version, for both. The history begins with what a trained model, if there is one, has of its `groups`."""

    def __init__(
        self,
        reserve_z: float = RESERVE_Z,
        block_size: int = 16,
        most_tokens: float = math.inf,
        groups: Groups | None = None,
    ) -> None:
        self.health = ForecastHealth()
        self.groups = groups
        self._history = GuardedHistory(HISTORY_ROWS if groups is None else GROUP_ROWS)
        if groups is not None and len(groups.seeds):
            self._history.seed(group_keys(groups.seeds[:, 0]), groups.seeds[:, 1])
        self._hints = Hints(RATIO_ROWS)
        self._promises = Promises(self.health)
        self._peaks = PeakWatch(self.health, reserve_z, block_size, most_tokens)
        self._pace = Pace()
        self._arrived: deque[tuple[int, int, int, float, int]] = deque(maxlen=_MOST_NOTES)
        self._ended: deque[Ended | tuple[Told, Any]] = deque(maxlen=_MOST_NOTES)
        self._lock = threading.Lock()  # of those who learn
        self.tables = self._publish(0)

    def arrived(self, handle: int, leaf: int, hint_leaf: int, hint_tokens: float, limit: int) -> None:
        """Note a request; its forecast as of now will be scored."""
        self._arrived.append((handle, leaf, hint_leaf, hint_tokens, limit))

    def over(self, told: Told, request: Any) -> None:
        """Note a request that is over, which nothing changes any more."""
        self._ended.append((told, request))

    def finished(self, ended: Ended) -> None:
        """Note how long a request became."""
        self._ended.append(ended)

    def learn(self) -> bool:
        """Take in all that was noted; True where there are new tables."""
        with self._lock:
            noted = [self._ended.popleft() for _ in range(len(self._ended))]  # each of them has arrived
            arrived = [self._arrived.popleft() for _ in range(len(self._arrived))]
        ended = [one if isinstance(one, Ended) else ended_of(*one) for one in noted]
        if arrived:
            self._promise(arrived)
        self._peaks.ended(ended)
        changed = self._learn([one for one in ended if one.tokens > 0])
        if changed:
            self.tables = self._publish(self.tables.version + 1)
        return changed

    def watch(self, running: Running) -> None:
        """Take in what runs now; there are new tables then."""
        self._history.watch(chains_of(running.leaves), running.generated)
        hinted = running.hint_leaves > 0
        chains = hint_chains_of(running.hint_leaves[hinted])
        self._hints.watch(chains, running.hint_tokens[hinted], running.generated[hinted])
        self.health.drift_active = self._history.on_floor
        self._pace.look(running.handles, running.generated, running.steps)
        self.tables = self._publish(self.tables.version + 1)
        self._peaks.look(running, self._curves(running.leaves, running.hint_leaves, running.hint_tokens))

    def save(self, folder: Path) -> None:
        """Write what was learned; raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        save_history(self._history, folder / "history.npz")
        save_history(self._hints.ratios, folder / "hints.npz")

    def restore(self, folder: Path) -> None:
        """Take in what `save` wrote, into a new forecaster, in place of what it began with: all of it or nothing.
        Raises InputError for files of no use, OSError for those that cannot be read."""
        history, ratios = GuardedHistory(len(self._history.survival)), Hints(RATIO_ROWS)
        found = [(folder / "history.npz").exists(), (folder / "hints.npz").exists()]
        if found[0]:
            load_history(history, folder / "history.npz")
        if found[1]:
            load_history(ratios.ratios, folder / "hints.npz")
        self._history, self._hints = history if found[0] else self._history, ratios if found[1] else self._hints
        self.tables = self._publish(self.tables.version + 1)

    def _promise(self, arrived: list[tuple[int, int, int, float, int]]) -> None:
        handles, leaves, hint_leaves, hint_tokens, limits = zip(*arrived, strict=True)
        curves = self._curves(np.array(leaves), np.array(hint_leaves), np.array(hint_tokens))
        self._promises.make(list(handles), curves, np.array(limits))

    def _learn(self, ended: list[Ended]) -> bool:
        if not ended:
            return False
        self._promises.settle(ended)
        leaves = np.array([one.leaf for one in ended], dtype=np.int64)
        tokens = np.array([one.tokens for one in ended], dtype=np.int64)
        cut = np.array([one.cut for one in ended], dtype=np.bool_)
        hint_leaves = np.array([one.hint_leaf for one in ended], dtype=np.int64)
        chains = chains_of(leaves)
        hinted = hint_leaves > 0
        plain = np.zeros(int(hinted.sum()))
        rows = self._history.rows_of(chains[hinted])
        half_octave_score(self._history.survival, rows, np.full(len(rows), UNIT_TOKENS), tokens[hinted], plain)
        changed = self._history.learn(chains, tokens, cut)
        self.health.drift_active = self._history.on_floor
        if hinted.any():
            hint_tokens = np.array([one.hint_tokens for one in ended])[hinted]
            sources, ratios = hint_sources_of(hint_leaves[hinted]), hint_chains_of(hint_leaves[hinted])
            changed |= self._hints.learn(sources, ratios, hint_tokens, tokens[hinted], plain, cut[hinted])
        return changed

    def _curves(self, leaves: IntArray, hint_leaves: IntArray, hint_tokens: FloatArray) -> Curves:
        curve, scale = place(self.tables, leaves, hint_leaves, hint_tokens)
        return Curves(self.tables.survival, self.tables.residual, curve, scale)

    def _publish(self, version: int) -> Tables:
        history, ratios = self._history, self._hints.ratios
        known = self._hints.sources()
        distrusted = frozenset(known[~self._hints.trusted(known)].tolist())
        self.health.hint_sources = len(known) - len(distrusted)
        return Tables(
            np.concatenate([history.survival, ratios.survival]),
            np.concatenate([history.residual, ratios.residual]),
            history.rows_by_key(),
            {key: len(history.survival) + row for key, row in ratios.rows_by_key().items()},
            distrusted,
            self._peaks.z(),
            self._pace.told,
            version,
            len(history.survival),
        )


def curve_of(tables: Tables, leaf: int, hint_leaf: int = 0, hint_tokens: float = 0.0) -> tuple[int, float]:
    """Table row of a request, and tokens per unit of its curve."""
    if hint_leaf > 0:
        source, ratio = int(hint_sources_of(hint_leaf)), hint_leaf - 1  # type: ignore[arg-type]
        if source not in tables.distrusted:
            row = tables.ratio_rows.get(ratio, tables.ratio_rows.get(-1 - source, tables.first_ratio))
            return row, HINT_SCALE * max(hint_tokens, 1.0)
    for level in range(LEVELS, 0, -1):
        found = tables.rows.get(key_at(leaf, level))
        if found is not None:
            return found, UNIT_TOKENS
    return 0, UNIT_TOKENS


def place(
    tables: Tables, leaves: IntArray, hint_leaves: IntArray, hint_tokens: FloatArray
) -> tuple[NDArray[np.int32], FloatArray]:
    """As `curve_of`, of n requests."""
    curve, scale = np.zeros(len(leaves), np.int32), np.full(len(leaves), UNIT_TOKENS)
    at_level = [key_at(leaves, level) for level in range(1, LEVELS + 1)]
    for level, keys in enumerate(at_level, start=1):  # the special over the general
        for key, row in tables.rows.items():
            if level_of(key) == level:
                curve[keys == key] = row
    hinted = hint_leaves > 0
    if hinted.any():
        sources = hint_sources_of(hint_leaves)
        hinted &= ~np.isin(sources, list(tables.distrusted))
        ratio = np.full(len(leaves), tables.first_ratio, np.int32)
        for by_source in (True, False):
            for key, row in tables.ratio_rows.items():
                if (key < 0) == by_source:
                    ratio[(-1 - sources if by_source else hint_leaves - 1) == key] = row
        curve[hinted] = ratio[hinted]
        scale[hinted] = HINT_SCALE * np.maximum(hint_tokens[hinted], 1.0)
    return curve, scale
