"""Growth of KV, peaks of batches, and the scores of forecasts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.models.forecast.growth import Growth, block_profile, sample_steps, survival_profile
from kvhorizon.models.forecast.overflow import Z_LEAST, PeakScores, peak_at, score_of
from kvhorizon.models.forecast.scoring import TAUS, quantile, score_length
from kvhorizon.models.forecast.survival import EXACT, GRID_POINTS, Curves, lognormal_curve, residual_of, survive


def curves() -> Curves:
    table = lognormal_curve(0.8)
    return Curves(
        table[None], residual_of(table)[None], np.array([0, 0, EXACT], np.int32), np.array([100.0, 400.0, 60.0])
    )


def test_the_profile_is_survival_at_each_step() -> None:
    rows, generated = np.array([0, 1, 2, 0]), np.array([0, 50, 10, 10_000_000])
    limit, steps = np.full(4, 20_000_000), sample_steps(1024, 12)
    out = np.zeros((4, 12))
    survival_profile(curves(), rows, generated, limit, steps, 1.5, out)
    plain = [
        [survive(curves(), n, g, 1.5 * t, 20_000_000) for t in steps] for n, g in zip(rows, generated, strict=True)
    ]
    assert out == pytest.approx(np.array(plain))


def test_no_request_is_more_than_sure_to_go_on() -> None:
    """Where a curve is flat, a value between grid points may come out above the one before, by rounding."""
    table = np.full((1, GRID_POINTS), 0.9)
    flat = Curves(table, residual_of(table[0])[None], np.zeros(1, np.int32), np.array([100.0]))
    found = [survive(flat, 0, generated, h, 1 << 30) for generated in range(0, 200, 7) for h in range(1, 40)]
    out, rows = np.zeros((29, 12)), np.zeros(29, np.int64)
    survival_profile(flat, rows, np.arange(0, 200, 7), np.full(29, 1 << 30), sample_steps(64, 12), 1.0, out)
    assert max(found) == out.max() == 1.0
    assert min(found) > 1.0 - 1e-12


def test_no_request_outlives_its_limit() -> None:
    out = np.ones((1, 3))
    survival_profile(curves(), np.array([1]), np.array([90]), np.array([100]), np.array([1.0, 9.0, 10.0]), 1.0, out)
    assert out[0, 1] > 0.0 == out[0, 2]


def test_blocks_by_hand() -> None:
    """30 tokens held, 2 of whose blocks others hold as well; after 3 steps 33 tokens, 3 blocks, 1 of its own."""
    alive, mean, variance = np.array([[1.0, 0.25]]), np.zeros((1, 2)), np.zeros((1, 2))
    block_profile(alive, np.array([30.0]), np.array([2.0]), Growth(np.array([1.0, 3.0]), 1.0, 16, 1e9), mean, variance)
    assert mean.tolist() == [[0.0, 0.25]]
    assert variance.tolist() == [[0.0, 0.25 * 0.75]]
    block_profile(alive, np.array([30.0]), np.array([0.0]), Growth(np.array([1.0, 3.0]), 1.0, 16, 32.0), mean, variance)
    assert mean.tolist() == [[2.0, 0.5]]  # a sliding window of 32 tokens


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(0.01, 500)), min_size=1, max_size=8),
    st.floats(0, 2e4),
)
@settings(max_examples=80, deadline=None)
def test_the_score_is_the_least_z_that_holds_the_peak(points: list[tuple[float, float]], peak: float) -> None:
    mean, deviation = np.array(points).T
    z = score_of(mean, deviation, peak)
    if Z_LEAST < z < 12.0:
        assert peak_at(mean, deviation, z) == pytest.approx(peak, rel=1e-6, abs=1e-6)


def test_without_experience_z_is_the_normal_one() -> None:
    scores = PeakScores()
    assert [scores.z(p) for p in (0.2, 0.05, 0.01)] == pytest.approx([0.842, 1.645, 2.326], abs=0.01)


@pytest.mark.parametrize(("shift", "width"), [(0.0, 1.0), (1.0, 2.0), (-1.0, 0.3)])
def test_promises_are_kept_whatever_the_scores_are(shift: float, width: float) -> None:
    """Scores of errors that go together (width 2) or are skewed by the maximum (shifted): each share is as promised."""
    rng = np.random.default_rng(9)
    scores, broken = PeakScores(), np.zeros(3)
    chances = (0.2, 0.05, 0.01)
    for n in range(2500):
        z = shift + width * rng.standard_normal()
        if n >= 500:
            broken += [z > scores.z(p) for p in chances]
        scores.learn(z)
    assert (np.abs(np.log2(broken / 2000 / np.array(chances))) < 0.8).all()


def test_the_pit_of_a_right_forecast_is_flat_and_quantiles_invert_it() -> None:
    rng = np.random.default_rng(2)
    table, scale = lognormal_curve(0.9), 200.0
    lengths = np.ceil(200.0 * np.exp(0.9 * rng.standard_normal(4000)))
    found = np.array([score_length(table, scale, length, rng.random(), TAUS) for length in lengths])
    shares = np.histogram(found[:, 1], bins=10, range=(0, 1))[0] / 4000
    assert shares == pytest.approx(np.full(10, 0.1), abs=0.02)
    assert quantile(table, scale, 0.5) == pytest.approx(200.0, rel=1e-3)
    assert quantile(table, scale, 0.841345) == pytest.approx(200.0 * np.exp(0.9), rel=0.01)


def test_a_wrong_forecast_scores_worse() -> None:
    rng = np.random.default_rng(3)
    lengths = np.ceil(200.0 * np.exp(0.9 * rng.standard_normal(1000)))
    mean = {
        name: np.mean([score_length(lognormal_curve(s), m, x, 0.5, TAUS) for x in lengths], axis=0)
        for name, s, m in (("right", 0.9, 200.0), ("sure", 0.2, 200.0), ("long", 0.9, 800.0))
    }
    for wrong in ("sure", "long"):
        assert mean[wrong][0] > mean["right"][0]
        assert mean[wrong][2] < mean["right"][2]
