"""The live forecaster: learns per tenant, weighs hints by what they were worth, and says how good it was."""

from pathlib import Path

import numpy as np
import pytest

from kvhorizon.adapter.forecasting.finished import Ended
from kvhorizon.adapter.forecasting.forecaster import HISTORY_ROWS, Forecaster, Tables, curve_of, place
from kvhorizon.adapter.forecasting.hints import Hint
from kvhorizon.adapter.forecasting.keys import hint_leaf
from kvhorizon.adapter.forecasting.running import Running
from kvhorizon.errors import InputError
from kvhorizon.models.forecast.bins import UNIT_TOKENS
from kvhorizon.models.forecast.scoring import quantile

ACME, OTHER = 1 << 40, 2 << 40  # leaves of two tenants
LIMIT = 1 << 20


class Traffic:
    """Requests that come and end one after another."""

    def __init__(self, forecaster: Forecaster, seed: int = 0) -> None:
        self.forecaster, self.rng, self.handle = forecaster, np.random.default_rng(seed), 0

    def send(self, leaf: int, tokens: int, told: int = 0, hint: float = 0.0, limit: int = LIMIT) -> None:
        self.handle += 1
        self.forecaster.arrived(self.handle, leaf, told, hint, limit)
        self.forecaster.learn()
        length = min(tokens, limit)
        self.forecaster.finished(Ended(self.handle, leaf, told, hint, length, tokens >= limit, False))

    def lognormal(self, median: float, log_sigma: float = 0.5) -> int:
        return max(1, round(median * float(np.exp(log_sigma * self.rng.standard_normal()))))


def median(tables: Tables, leaf: int, told: int = 0, hint: float = 0.0) -> float:
    row, scale = curve_of(tables, leaf, told, hint)
    return float(quantile(tables.survival[row], scale, 0.5))


def test_tenants_are_told_apart_and_strangers_get_the_mixture() -> None:
    forecaster = Forecaster()
    traffic = Traffic(forecaster)
    for _ in range(300):
        traffic.send(ACME, traffic.lognormal(40))
        traffic.send(OTHER, traffic.lognormal(2000))
    forecaster.learn()
    assert median(forecaster.tables, ACME) == pytest.approx(40, rel=0.15)
    assert median(forecaster.tables, OTHER) == pytest.approx(2000, rel=0.15)
    assert median(forecaster.tables, ACME + 5) == pytest.approx(40, rel=0.3)  # same tenant, another prompt class
    assert 40 < median(forecaster.tables, 3 << 40) < 2000


def test_coverage_and_pinball_are_those_of_a_forecast_that_knows() -> None:
    forecaster = Forecaster()
    traffic = Traffic(forecaster)
    for _ in range(3000):
        traffic.send(ACME, traffic.lognormal(300), limit=600)  # one in twelve is cut
    forecaster.learn()
    health = forecaster.health
    assert health.finished == 3000
    assert health.coverage50 == pytest.approx(0.5, abs=0.05)
    assert health.coverage80 == pytest.approx(0.8, abs=0.05)
    assert health.coverage95 == pytest.approx(0.95, abs=0.03)
    best = np.mean([0.5 * abs(traffic.lognormal(300) - 300) for _ in range(1000)])  # the median's own loss
    assert 0.3 * best < health.pinball < 1.1 * best


def test_a_false_start_shows_as_bad_coverage() -> None:
    """The first requests are all shorter than anybody would believe at first."""
    forecaster = Forecaster()
    for handle in range(1, 41):
        forecaster.arrived(handle, ACME, 0, 0.0, LIMIT)
    forecaster.learn()
    for handle in range(1, 41):
        forecaster.finished(Ended(handle, ACME, 0, 0.0, 1, False, False))
    forecaster.learn()
    assert forecaster.health.coverage95 < 0.2


def test_those_cut_short_count_as_longer() -> None:
    forecaster = Forecaster()
    traffic = Traffic(forecaster)
    for _ in range(200):
        traffic.send(ACME, 10_000, limit=50)
    forecaster.learn()
    row, scale = curve_of(forecaster.tables, ACME)
    assert quantile(forecaster.tables.survival[row], scale, 0.1) > 50
    assert forecaster.health.coverage95 > 0.9  # the limit was forecast


def test_the_aborted_are_no_failure_of_the_forecast() -> None:
    forecaster = Forecaster()
    forecaster.arrived(1, ACME, 0, 0.0, LIMIT)
    forecaster.finished(Ended(1, ACME, 0, 0.0, 5, True, True))
    forecaster.learn()
    assert forecaster.health.finished == 0


def test_a_biased_source_is_corrected_and_a_liar_ignored() -> None:
    forecaster = Forecaster()
    traffic = Traffic(forecaster)
    honest, liar = hint_leaf(ACME, Hint(1.0)), hint_leaf(OTHER, Hint(1.0))
    for _ in range(300):
        length = traffic.lognormal(300, 1.0)
        traffic.send(ACME, length, honest, length / 3.0)
        traffic.send(OTHER, traffic.lognormal(300), liar, float(traffic.lognormal(300, 2.5)))
    forecaster.learn()
    tables = forecaster.tables
    assert median(tables, ACME, honest, 100.0) == pytest.approx(300.0, rel=0.1)
    assert curve_of(tables, ACME, honest, 100.0)[0] >= HISTORY_ROWS
    assert curve_of(tables, OTHER, liar, 100.0) == curve_of(tables, OTHER)
    assert forecaster.health.hint_sources == 1


def test_many_are_placed_as_each_alone() -> None:
    forecaster = Forecaster()
    traffic = Traffic(forecaster)
    rng = np.random.default_rng(3)
    leaves = ((rng.integers(0, 6, 400) << 32) + (rng.integers(0, 3, 400) << 4) + rng.integers(0, 2, 400)).astype(
        np.int64
    )
    width, tokens = rng.integers(0, 3, 400), rng.lognormal(5, 2, 400)
    told = np.array([hint_leaf(int(leaf), Hint(1.0, int(w))) for leaf, w in zip(leaves, width, strict=True)])
    told[rng.random(400) < 0.5] = 0
    for _ in range(2):
        for leaf, one, hint in zip(leaves.tolist(), told.tolist(), tokens.tolist(), strict=True):
            traffic.send(leaf, traffic.lognormal(10 + 3 * (leaf >> 32) ** 3), one, hint)
    forecaster.learn()
    tables = forecaster.tables
    assert len(tables.rows) > 3
    assert tables.distrusted
    curve, scale = place(tables, leaves, told, tokens)
    alone = [curve_of(tables, *one) for one in zip(leaves.tolist(), told.tolist(), tokens.tolist(), strict=True)]
    assert list(zip(curve.tolist(), scale.tolist(), strict=True)) == alone
    assert len(set(curve.tolist())) > 4


def test_tables_are_never_modified() -> None:
    forecaster = Forecaster()
    before = forecaster.tables
    copy = before.survival.copy()
    for _ in range(100):
        forecaster.finished(Ended(1, 0, 0, 0.0, 50, False, False))
    assert forecaster.learn()
    assert forecaster.tables.version == before.version + 1
    assert (before.survival == copy).all()
    assert not forecaster.learn()


def running(generated: list[int], leaf: int = ACME) -> Running:
    size = len(generated)
    numbers, zeros = np.array(generated, dtype=np.int64), np.zeros(size, np.int64)
    handles = np.arange(1, size + 1).astype(np.uint64)
    return Running(handles, zeros + leaf, zeros, np.zeros(size), numbers, numbers + 10, zeros + LIMIT)


def test_what_still_runs_is_known_to_be_longer() -> None:
    forecaster = Forecaster()
    traffic = Traffic(forecaster)
    for _ in range(20):
        traffic.send(ACME, 10)
    forecaster.learn()
    before = median(forecaster.tables, ACME)
    forecaster.watch(running([3000] * 60))
    assert median(forecaster.tables, ACME) > 5 * before


def test_a_shift_is_noticed_while_it_runs() -> None:
    forecaster = Forecaster()
    traffic = Traffic(forecaster)
    for _ in range(2000):
        traffic.send(ACME, traffic.lognormal(50))
    forecaster.learn()
    assert not forecaster.health.drift_active
    for step in range(1, 40):
        forecaster.watch(running([20 * step] * 100))
    assert forecaster.health.drift_active
    assert median(forecaster.tables, ACME) > 300


def test_what_was_learned_survives_a_restart(tmp_path: Path) -> None:
    first = Forecaster()
    traffic = Traffic(first)
    told = hint_leaf(OTHER, Hint(1.0))
    for _ in range(300):
        traffic.send(ACME, traffic.lognormal(40))
        traffic.send(OTHER, traffic.lognormal(500, 0.1), told, 250.0)
    first.learn()
    first.save(tmp_path / "state")
    second = Forecaster()
    second.restore(tmp_path / "state")
    assert median(second.tables, ACME) == pytest.approx(median(first.tables, ACME), rel=0.02)
    assert median(second.tables, OTHER, told, 100.0) == pytest.approx(200.0, rel=0.1)
    Forecaster().restore(tmp_path / "nothing")


def test_a_broken_state_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history.npz").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="history"):
        Forecaster().restore(tmp_path)


def test_units() -> None:
    assert curve_of(Forecaster().tables, 0) == (0, UNIT_TOKENS)
