"""Hints are trusted as they deserve; drift is noticed, and chance is not."""

import numpy as np
import pytest

from kvhorizon.models.forecast.hints import Hints, half_octave_score, hint_chain, number_of
from kvhorizon.models.forecast.history.guarded import GuardedHistory
from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.of_a_trace import make_forecast
from kvhorizon.models.forecast.scoring import quantile
from kvhorizon.models.forecast.survival import mean_remaining

SIZE = 600


class Clients:
    """A source whose hints are `lie` (n,) times the truth, against a history without keys."""

    def __init__(self, lie: np.ndarray, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = np.maximum(1, rng.lognormal(5.5, 1.0, len(lie))).astype(np.int64)
        self.hint = np.maximum(1.0, self.lengths * lie)
        self.source = np.zeros(len(lie), np.int64)
        self.chain = hint_chain(self.source, self.hint, self.hint)
        self.hints, self.history = Hints(), LengthHistory()

    def run(self) -> None:
        none = np.zeros((len(self.lengths), 0), np.int64)
        for n in np.array_split(np.arange(len(self.lengths)), 60):
            plain = np.zeros(len(n))
            rows, unit = self.history.rows_of(none[n]), np.full(len(n), 16.0)
            half_octave_score(self.history.survival, rows, unit, self.lengths[n], plain)
            self.history.learn(none[n], self.lengths[n])
            self.hints.learn(self.source[n], self.chain[n], self.hint[n], self.lengths[n], plain)

    def median_of(self, hint: float) -> float:
        row = self.hints.ratios.rows_of(self.chain[:1])[0]
        return quantile(self.hints.ratios.survival[row], float(self.hints.scale(np.array([hint]))[0]), 0.5)


def test_a_constant_lie_is_corrected() -> None:
    """Whoever hints a third of the truth, give or take 5 %, is believed to mean three times as much."""
    clients = Clients(np.exp(0.05 * np.random.default_rng(1).standard_normal(SIZE)) / 3.0)
    clients.run()
    assert clients.hints.trusted(np.array([0])).all()
    assert clients.median_of(100.0) == pytest.approx(300.0, rel=0.1)


def test_a_random_liar_counts_for_nothing() -> None:
    rng = np.random.default_rng(2)
    clients = Clients(np.ones(SIZE))
    clients.hint = rng.lognormal(5.5, 2.5, SIZE)
    clients.chain = hint_chain(clients.source, clients.hint, clients.hint)
    clients.run()
    assert not clients.hints.trusted(np.array([0])).any()
    assert clients.hints.trusted(np.array([1])).all()  # others start with the benefit of the doubt


def test_ranges_stand_for_their_middle_and_keep_their_width() -> None:
    low, high = np.array([100.0, 100.0]), np.array([400.0, 100.0])
    assert number_of(low, high).tolist() == [200.0, 100.0]
    chain = hint_chain(np.array([3, 3]), low, high)
    assert chain[0, 0] == chain[1, 0]
    assert chain[0, 1] != chain[1, 1]


@pytest.mark.parametrize("spec", ["history", "hint:0.3"])
def test_forecasts_keep_their_arrays_and_come_to_know(spec: str) -> None:
    rng = np.random.default_rng(3)
    truth = np.maximum(1, rng.lognormal(5, 1, 800)).astype(np.int64)
    prompt, limit = rng.integers(10, 2000, 800), np.full(800, 4096)
    forecast = make_forecast(
        spec, prompt_tokens=prompt, key=np.zeros(800, np.int64), output_limit=limit, true_output_tokens=truth, seed=100
    )
    held = [id(column) for column in forecast.curves]
    for some in np.array_split(np.arange(700), 40):
        forecast.watch(np.arange(700, 720), np.full(20, 5))
        forecast.learn(some, truth[some], 0.0)
    assert [id(column) for column in forecast.curves] == held
    guess = np.array([mean_remaining(forecast.curves, n, 0, 4096) for n in range(700, 800)])
    agreement = np.corrcoef(np.log(guess), np.log(truth[700:]))[0, 1] if spec != "history" else 1.0
    assert agreement > 0.8
    assert guess.mean() == pytest.approx(truth.mean(), rel=0.35)


def stream(history: GuardedHistory, lengths: np.ndarray, concurrency: int = 64) -> list[int]:
    """Run lengths through `concurrency` places, one token a step; how many had ended at each alarm."""
    none = np.zeros((1, 0), np.int64)
    waiting = list(lengths)
    left = [waiting.pop(0) for _ in range(concurrency)]
    begun, alarms, ended, step = [0] * concurrency, [], 0, 0
    while waiting:
        step += min(left)
        gone = min(left)
        left = [rest - gone for rest in left]
        done = [n for n in range(concurrency) if left[n] == 0]
        before = history.drifts
        history.learn(none.repeat(len(done), 0), np.array([step - begun[n] for n in done]))
        for n in done:
            ended += 1
            left[n], begun[n] = (waiting.pop(0), step) if waiting else (10**9, step)
        if ended % 8 == 0:
            running = np.array([step - begun[n] for n in range(concurrency)])
            history.watch(none.repeat(concurrency, 0), running)
        if history.drifts > before:
            alarms.append(ended)
    return alarms


def test_chance_raises_no_alarm() -> None:
    lengths = np.maximum(1, np.random.default_rng(4).lognormal(4.5, 0.9, 3000)).astype(np.int64)
    assert stream(GuardedHistory(2), lengths) == []


def test_ten_times_longer_requests_raise_one_before_they_end() -> None:
    rng = np.random.default_rng(5)
    lengths = np.maximum(1, rng.lognormal(4.5, 0.9, 2000)).astype(np.int64)
    lengths[1000:] *= 10
    history = GuardedHistory(2)
    alarms = stream(history, lengths)
    assert alarms
    assert 1000 - 64 <= alarms[0] <= 1000 + 64
    assert quantile(history.survival[0], 16.0, 0.5) > 500
