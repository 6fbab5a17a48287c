"""The length history: product-limit estimate, shrinkage, censoring, bounded memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.models.forecast.bins import BINS, EDGES, UNIT_TOKENS, bin_of, tabulate
from kvhorizon.models.forecast.history.chains import length_chain
from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.product_limit import log_normal_tail, product_limit
from kvhorizon.models.forecast.survival import GRID_POINTS, grid, residual_of


def survival_at(history: LengthHistory, row: int, tokens: float) -> float:
    return float(np.interp(tokens, grid() * UNIT_TOKENS, history.survival[row]))


def estimate(ended: dict[int, float], running: dict[int, float], prior: np.ndarray, strength: float) -> np.ndarray:
    counts = np.zeros((2, BINS))
    for row, table in enumerate((ended, running)):
        for length, number in table.items():
            counts[row, bin_of(np.array([length]))[0]] += number
    alive = np.zeros(BINS)
    product_limit(counts[0], counts[1], prior, strength, alive)
    return alive


def geometric(rate: float) -> np.ndarray:
    return np.exp(-rate * EDGES)


def test_every_short_length_has_a_bin_of_its_own() -> None:
    assert bin_of(np.arange(1, 24)).tolist() == list(range(23))
    assert EDGES[-1] == 2**20
    assert bin_of(np.array([10**9])) == BINS - 1


def test_without_running_requests_it_is_the_dirichlet_posterior() -> None:
    """Lengths 2, 2, 5, 9 and a prior worth 3: (3 S⁰ + 4 Ŝ) / 7."""
    prior = geometric(0.1)
    alive = estimate({2: 2, 5: 1, 9: 1}, {}, prior, 3.0)
    seen = np.array([2, 2, 5, 9])
    for b in range(12):
        assert alive[b] == pytest.approx((3 * prior[b] + (seen > EDGES[b]).sum()) / 7)


def test_almost_without_prior_it_is_kaplan_and_meier() -> None:
    """Ends at 3, 6, 10, one still running at 4: S = 3/4 after 3, then 3/4 · 1/2 after 6, with two at risk there."""
    alive = estimate({3: 1, 6: 1, 10: 1}, {4: 1}, geometric(0.1), 1e-6)
    assert alive[bin_of(np.array([3]))[0]] == pytest.approx(3 / 4, abs=1e-4)
    assert alive[bin_of(np.array([6]))[0]] == pytest.approx(3 / 8, abs=1e-4)


@given(
    ended=st.dictionaries(st.integers(1, 10_000), st.integers(1, 5), max_size=20),
    running=st.dictionaries(st.integers(1, 10_000), st.integers(1, 5), max_size=20),
    strength=st.floats(0.1, 500.0),
)
@settings(max_examples=60, deadline=None)
def test_curves_fall_from_one_and_never_below_zero(ended: dict, running: dict, strength: float) -> None:
    alive = estimate(ended, running, geometric(0.01), strength)
    assert (np.diff(alive) <= 1e-12).all()
    assert 0.0 <= alive[-1] <= alive[0] <= 1.0


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.integers(1, 3000))
@settings(max_examples=40, deadline=None)
def test_a_running_request_never_shortens_the_forecast(lengths: list[int], generated: int) -> None:
    ended = {length: float(lengths.count(length)) for length in lengths}
    without = estimate(ended, {}, geometric(0.01), 2.0)
    with_one = estimate(ended, {generated: 1.0}, geometric(0.01), 2.0)
    assert (with_one >= without - 1e-12).all()


def test_the_tail_has_the_rate_of_a_pareto() -> None:
    """Lengths 100 · u^(−1/α), α = 1.2: beyond the longest, doubling a length costs a factor 2^α."""
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    lengths = np.ceil(100.0 * quantiles ** (-1 / 1.2)).astype(np.int64)
    ended = np.bincount(bin_of(lengths), minlength=BINS).astype(float)
    alive = np.zeros(BINS)
    log_normal_tail(ended, np.zeros(BINS), np.log(200.0), 0.8, 1.5, 4.0, alive)
    rate = np.log(alive[-17] / alive[-1]) / np.log(EDGES[-1] / EDGES[-17])
    assert rate == pytest.approx(1.2, rel=0.1)


def test_tables_agree_with_the_curve_and_its_plain_residual() -> None:
    alive = geometric(0.02)
    survival, residual = np.zeros((2, GRID_POINTS))
    tabulate(alive, survival, residual)
    tokens = grid() * UNIT_TOKENS
    assert np.interp([1, 7, 40, 200], tokens, survival) == pytest.approx(
        np.exp(-0.02 * np.array([1, 7, 40, 200])), rel=0.02
    )
    busy = survival > 1e-6
    assert residual[busy] == pytest.approx(residual_of(survival)[busy], rel=1e-6)


def test_it_learns_a_distribution_and_its_keys() -> None:
    rng = np.random.default_rng(7)
    tenant = rng.integers(0, 2, 3000)
    lengths = np.where(tenant == 0, rng.integers(1, 50, 3000), rng.integers(1000, 1100, 3000))
    history = LengthHistory()
    assert history.learn(tenant, lengths)
    short, long = history.rows_of(np.array([0, 1]))
    assert len({0, short, long}) == 3
    assert survival_at(history, short, 25) == pytest.approx(0.5, abs=0.05)
    assert survival_at(history, short, 200) < 0.01
    assert survival_at(history, long, 900) > 0.98
    assert survival_at(history, 0, 200) == pytest.approx(0.5, abs=0.05)


def test_an_unknown_key_takes_the_nearest_known_of_its_chain() -> None:
    history = LengthHistory()
    keys = np.tile([[5, 50]], (64, 1))
    history.learn(keys, np.full(64, 300))
    rows = history.rows_of(np.array([[5, 50], [5, 51], [6, 60]]))
    assert rows[1] == history.rows_of(np.array([5]))[0] != 0
    assert rows[2] == 0


def test_running_requests_correct_a_start_in_which_only_short_ones_ended() -> None:
    """Half of all are 20 tokens, half 4 000; at step 1 000 only the short ones have ended."""
    blind, watching = LengthHistory(), LengthHistory()
    keys = np.zeros(100, np.int64)
    for history in (blind, watching):
        history.learn(keys, np.full(100, 20))
    watching.watch(keys, np.full(100, 1000))
    assert survival_at(blind, 0, 500) < 0.15
    assert survival_at(watching, 0, 500) == pytest.approx(0.5, abs=0.06)
    watching.watch(keys[:0], keys[:0])
    assert watching.survival[0] == pytest.approx(blind.survival[0])


def test_a_request_cut_at_its_limit_counts_as_longer() -> None:
    history = LengthHistory()
    keys = np.zeros(200, np.int64)
    lengths = np.tile([50, 400], 100)
    history.learn(keys, lengths, capped=lengths == 400)
    assert survival_at(history, 0, 380) == pytest.approx(0.5, abs=0.05)
    assert survival_at(history, 0, 800) > 0.15


def test_memory_is_bounded_and_a_key_outlives_its_children() -> None:
    history = LengthHistory(rows=8)
    rng = np.random.default_rng(3)
    tenants = rng.integers(0, 500, 4000)
    chains = length_chain(tenants, rng.integers(1, 5000, 4000))
    for some in np.array_split(np.arange(4000), 200):
        history.learn(chains[some], rng.integers(1, 400, len(some)))
        rows = history.rows_of(chains[some])
        assert 0 <= rows.min() <= rows.max() < 8
        used = history.evidence.row[history.evidence.row >= 0]
        assert len(np.unique(used)) == len(used)
    assert (np.diff(history.survival, axis=1) <= 1e-12).all()


def test_forgetting_widens_the_curve() -> None:
    history = LengthHistory()
    history.learn(np.zeros(1000, np.int64), np.full(1000, 100))
    sure = survival_at(history, 0, 200)
    history.forget(0.005)
    assert sure < 0.01 < 0.05 < survival_at(history, 0, 200)


def test_batches_of_any_size_teach_the_same_counts() -> None:
    rng = np.random.default_rng(11)
    keys, lengths = rng.integers(0, 5, 400), rng.integers(1, 900, 400)
    one, many = LengthHistory(), LengthHistory()
    many.learn(keys, lengths)
    for n in range(400):
        one.learn(keys[n : n + 1], lengths[n : n + 1])
    assert one.evidence.seen[:6].sum() == many.evidence.seen[:6].sum() == 800
    assert one.survival[0] == pytest.approx(many.survival[0], abs=0.05)
