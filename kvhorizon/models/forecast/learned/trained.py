"""A learned forecast that is trained while requests end: nothing is known of any that has not.

It begins as the history. Once enough have ended, and each time that their number has doubled, a model is fitted to them
as `kvhorizon train` fits one to a recording, and put in the history's place if it beats it there
(`models.forecast.learned.train`); else the history stays. What a recording lacks, the lengths of those that still run
or wait, this lacks as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.history.guarded import GuardedHistory
from kvhorizon.models.forecast.informed import KeyedForecast
from kvhorizon.models.forecast.learned.features import Recorded, features_of
from kvhorizon.models.forecast.learned.learned import LearnedModel
from kvhorizon.models.forecast.learned.train import LEAST_REQUESTS, TRAIN_SHARE, train
from kvhorizon.models.forecast.survival import Curves

GROUP_ROWS = 128
FIRST_REQUESTS = round(1.05 * LEAST_REQUESTS / (1.0 - TRAIN_SHARE))  # ended before the first training

IntArray = NDArray[np.int64]


class TrainedForecast:
    """Of N requests, `plain` until a model is accepted. `trainings` and `accepted` count them."""

    def __init__(self, plain: KeyedForecast, requests: Recorded, output_limit: IntArray, seed: int) -> None:
        self.version = 0
        self.trainings = self.accepted = 0
        self._plain, self._limit, self._seed = plain, output_limit, seed
        self._now = plain
        self._requests = requests._replace(
            finish_s=np.full(len(requests.arrival_s), np.inf), output_tokens=np.ones(len(requests.arrival_s), np.int64)
        )
        self._ended = 0
        self._due = FIRST_REQUESTS
        rows, points = plain.history.survival.shape
        tables = np.zeros((2, rows + GROUP_ROWS, points))
        self.curves = Curves(tables[0], tables[1], plain.curves.curve.copy(), plain.curves.scale.copy())
        self._show()

    def learn(self, finished: IntArray, output_tokens: IntArray, now_s: float) -> bool:
        """See `Forecast.learn`."""
        self._requests.finish_s[finished], self._requests.output_tokens[finished] = now_s, output_tokens
        self._ended += len(finished)
        changed = self._plain.learn(finished, output_tokens, now_s)
        if self._now is not self._plain:
            changed = self._now.learn(finished, output_tokens, now_s)
        if self._ended >= self._due:
            self._due = 2 * self._ended
            changed |= self._train()
        if changed:
            self._show()
            self.version += 1
        return changed

    def watch(self, running: IntArray, generated: IntArray) -> None:
        """See `Forecast.watch`."""
        self._plain.watch(running, generated)
        if self._now is not self._plain:
            self._now.watch(running, generated)
        self._show()
        self.version += 1

    def _train(self) -> bool:
        ended = np.flatnonzero(np.isfinite(self._requests.finish_s))
        self.trainings += 1
        try:
            model = train(self._rows(ended), self._seed)
        except InputError:  # no better than the history, or requests did not end in time
            return False
        self.accepted += 1
        self._now = self._serving(model, ended)
        return True

    def _rows(self, which: IntArray) -> Recorded:
        """What has ended, as a recording."""
        known, hashes = self._requests, self._requests.prefix_hashes
        return known._replace(
            arrival_s=known.arrival_s[which],
            finish_s=known.finish_s[which],
            prompt_tokens=known.prompt_tokens[which],
            output_tokens=known.output_tokens[which],
            tenant=known.tenant[which],
            session=None if known.session is None else known.session[which],
            prefix_hashes=None if hashes is None else tuple(hashes[n] for n in which.tolist()),
            sampling=None if known.sampling is None else known.sampling[which],
        )

    def _serving(self, model: LearnedModel, ended: IntArray) -> KeyedForecast:
        """The model's groups, first with lengths that its trees have not seen, then with those that ended after."""
        keys = model.keys(features_of(model.inputs.only(self._requests)), self._requests.tenant)
        history = GuardedHistory(GROUP_ROWS)
        seeds = model.seeds
        history.seed(model.keys_of(seeds[:, 0], np.zeros(len(seeds), np.int64)), seeds[:, 1])
        later = ended[int(TRAIN_SHARE * len(ended)) :]
        in_order = later[np.argsort(self._requests.finish_s[later], kind="stable")]
        history.seed(keys[in_order], self._requests.output_tokens[in_order])
        return KeyedForecast(history, keys, self._limit)

    def _show(self) -> None:
        """The tables of both, one above the other, and the rows of who serves."""
        rows = len(self._plain.history.survival)
        first = 0 if self._now is self._plain else rows
        last = first + len(self._now.history.survival)
        self.curves.survival[first:last] = self._now.history.survival
        self.curves.residual[first:last] = self._now.history.residual
        self.curves.curve[:] = first + self._now.curves.curve
        self.curves.scale[:] = self._now.curves.scale
