"""Forecasts judged by what came: the bands hold the shares that they are named after."""

import numpy as np

from kvhorizon.adapter.telemetry.coverage import BANDS, Coverage, Joined, quantiles
from kvhorizon.models.survival import lognormal_curve

CURVE = lognormal_curve(0.8)
TABLES = CURVE[None, :]


def test_quantiles_of_a_log_normal_length() -> None:
    """On a grid of sixteen points an octave."""
    expected = 100.0 * np.exp(0.8 * np.array([-1.2816, 0.0, 1.2816]))
    np.testing.assert_allclose(quantiles(CURVE, 100.0, 10**6), expected, rtol=0.01)
    assert quantiles(CURVE, 100.0, 60).tolist()[1:] == [60.0, 60.0]


def test_shares_of_the_bands() -> None:
    """4 000 lengths of the very distribution that is forecast; standard errors are below 0.8 %."""
    coverage = Coverage()
    lengths = 100.0 * np.exp(0.8 * np.random.default_rng(1).standard_normal(4000))
    counts = dict.fromkeys(BANDS, 0)
    ratios = []
    for number, length in enumerate(lengths):
        coverage.admitted(Joined(str(number), TABLES, 0, 100.0, 10**6))
        judged = coverage.ended(str(number), round(length), whole=True)
        assert judged is not None
        counts[judged.band] += 1
        ratios.append(judged.ratio)
    shares = np.array([counts[band] for band in BANDS]) / len(lengths)
    np.testing.assert_allclose(shares, [0.1, 0.4, 0.4, 0.1], atol=0.03)
    np.testing.assert_allclose(np.median(ratios), 1.0, rtol=0.05)


def test_nothing_is_kept_of_those_that_ended() -> None:
    coverage = Coverage()
    coverage.admitted(Joined("a", TABLES, 0, 100.0, 50))
    assert coverage.ended("a", 20, whole=False) is None  # aborted: its length is unknown
    assert coverage.ended("a", 20, whole=True) is None
    assert coverage.ended("never seen", 20, whole=True) is None


def test_an_output_cut_at_its_limit_met_a_forecast_cut_there() -> None:
    coverage = Coverage()
    coverage.admitted(Joined("a", TABLES, 0, 100.0, 150))
    judged = coverage.ended("a", 150, whole=True)
    assert judged is not None
    assert judged.band == "p50_p90"
