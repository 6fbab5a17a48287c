"""Promises about batches are held against what the batches did, and the reserve follows."""

import numpy as np
import pytest

from kvhorizon.adapter.forecasting.finished import Ended
from kvhorizon.adapter.forecasting.health import ForecastHealth
from kvhorizon.adapter.forecasting.peaks import GAP_LOOKS, HORIZON_STEPS, PATIENCE_LOOKS, PeakWatch
from kvhorizon.adapter.forecasting.running import Running
from kvhorizon.models.forecast.overflow import score_of
from kvhorizon.models.forecast.survival import Curves, lognormal_curve, residual_of

SIZE, MEDIAN, LIMIT = 64, 200.0, 1 << 20
CURVE = lognormal_curve(0.7)


def curves(size: int) -> Curves:
    return Curves(CURVE[None], residual_of(CURVE)[None], np.zeros(size, np.int32), np.full(size, MEDIAN))


class Engine:
    """`SIZE` seats that are never empty; lengths are `factor` times what is forecast."""

    def __init__(self, factor: float, seed: int = 0) -> None:
        self.health = ForecastHealth()
        self.watch = PeakWatch(self.health, 2.0, 16)
        self.factor, self.rng, self.next_handle = factor, np.random.default_rng(seed), 1
        self.handles, self.generated, self.length = (np.zeros(SIZE, np.int64) for _ in range(3))
        for seat in range(SIZE):
            self._seat(seat)

    def _seat(self, seat: int) -> None:
        self.handles[seat], self.generated[seat] = self.next_handle, 0
        self.length[seat] = max(1, round(self.factor * MEDIAN * float(np.exp(0.7 * self.rng.standard_normal()))))
        self.next_handle += 1

    def run(self, looks: int, steps: int = 16) -> None:
        for _ in range(looks):
            self.generated += steps
            over = np.flatnonzero(self.generated >= self.length)
            self.watch.ended([Ended(int(self.handles[n]), 0, 0, 0.0, int(self.length[n]), False, False) for n in over])
            for seat in over.tolist():
                self._seat(seat)
            self.look()

    def look(self) -> None:
        nothing = np.zeros(SIZE, np.int64)
        running = Running(
            self.handles.astype(np.uint64), nothing, nothing, np.zeros(SIZE), self.generated.copy(),
            100 + self.generated, nothing + LIMIT,
        )  # fmt: skip
        self.watch.look(running, curves(SIZE))


def test_a_right_forecast_keeps_its_promise() -> None:
    engine = Engine(1.0)
    engine.run(4000)
    assert engine.health.batches > 150
    assert engine.health.overflow_promised == pytest.approx(0.0228, abs=1e-3)
    assert engine.health.overflow_seen < 0.1
    assert 1.0 < engine.watch.z() < 3.0


def test_where_all_lengths_are_wrong_at_once_the_reserve_grows_until_the_promise_is_kept() -> None:
    engine = Engine(1.8)
    engine.run(1500)
    batches = engine.health.batches
    assert (engine.watch._scores._scores[:batches] > 2.0).mean() > 0.2  # so many would exceed it as it was
    assert engine.watch.z() > 2.5
    assert engine.health.overflow_seen < 0.05


def test_a_forecast_that_is_far_too_long_lowers_the_reserve() -> None:
    engine = Engine(0.4)
    engine.run(1500)
    assert engine.health.overflow_seen < 0.03
    assert engine.watch.z() < 1.9


def test_a_batch_that_hangs_is_given_up_in_the_end() -> None:
    engine = Engine(1.0)
    for _ in range(GAP_LOOKS + PATIENCE_LOOKS + 2):
        engine.look()
    assert engine.health.batches >= 1


def test_the_peak_by_hand() -> None:
    """Four requests of 90 tokens, 6 blocks each: one ends after 20 steps, one after 100, two go on beyond 256."""
    watch = PeakWatch(ForecastHealth(), 2.0, 16)
    handles, nothing = np.arange(1, 5).astype(np.uint64), np.zeros(4, np.int64)

    def at(generated: list[int]) -> Running:
        some = len(generated)
        tokens = np.array(generated, dtype=np.int64)
        return Running(
            handles[-some:], nothing[:some], nothing[:some], np.zeros(some), tokens, 90 + tokens, nothing[:some] + LIMIT
        )

    for _ in range(GAP_LOOKS):
        watch.look(at([0, 0, 0, 0]), curves(4))
    watch.ended([Ended(1, 0, 0, 0.0, 20, False, False), Ended(2, 0, 0, 0.0, 100, False, False)])
    found = []
    watch._scores.learn = found.append  # type: ignore[method-assign]
    batch = watch._batches[0]
    watch.look(at([HORIZON_STEPS, HORIZON_STEPS]), curves(2))
    assert found == [score_of(batch.mean, batch.deviation, 44.0)]  # 7 · 4 before 20, 12 · 3 before 100, 22 · 2 at 256
    assert watch._health.batches == 1
