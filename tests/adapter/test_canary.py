"""The canary's report: which windows count, and what they say, against scipy and against a known difference."""

import math

import numpy as np
import pytest

from kvhorizon.adapter.modes import Mode
from kvhorizon.adapter.telemetry.canary import CanaryReport, Counts, Sample, Windows, student_975, welch

WINDOW_S = 10.0


def sample(values: list[float]) -> Sample:
    found = Sample()
    for value in values:
        found.add(value)
    return found


def grown(counts: Counts, **more: float) -> Counts:
    return Counts(**{key: value + more.get(key, 0) for key, value in counts._asdict().items()})


def test_the_interval_is_welchs() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    control, observe = random.normal(1.0, 2.0, 7).tolist(), random.normal(0.0, 0.3, 31).tolist()
    interval = stats.ttest_ind(control, observe, equal_var=False).confidence_interval(0.95)
    found = welch(sample(control), sample(observe))
    assert found.mean == pytest.approx(np.mean(control) - np.mean(observe))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-4)


@pytest.mark.parametrize("freedom", [2.0, 2.5, 3.0, 7.3, 1000.0])
def test_students_quantile(freedom: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_975(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.008 if freedom < 3.0 else 0.0015)


def test_too_little_is_said_to_be_nothing() -> None:
    assert welch(sample([1.0, 1.0]), sample([2.0, 3.0, 4.0])) == (-2.0, -math.inf, math.inf)
    assert welch(sample([1.0] * 3), sample([2.0] * 3)) == (-1.0, -1.0, -1.0)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        found = welch(sample(random.normal(2.0, 1.0, 6).tolist()), sample(random.normal(0.0, 3.0, 40).tolist()))
        covered += found.low <= 2.0 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def run(windows: Windows, modes: list[Mode], begin_s: float = 0.0) -> None:
    """A step each half second; one request a second, with a preemption each where vLLM decides."""
    counts = Counts()
    for step in range(int(begin_s * 2), len(modes) * int(WINDOW_S) * 2):
        now_s = step / 2
        mode = modes[int(now_s // WINDOW_S)]
        windows.step(now_s, mode, counts)
        observed = mode is Mode.OBSERVE
        counts = grown(
            counts, finished=step % 2, preemptions=observed * (step % 2), tokens=50, firsts=step % 2, ttft_s=step % 2
        )


def test_windows_give_their_values() -> None:
    windows = Windows(WINDOW_S)
    run(windows, [Mode.CONTROL, Mode.OBSERVE] * 3 + [Mode.OBSERVE, Mode.OFF])
    report = CanaryReport(windows)
    report.take()
    assert report.windows == {Mode.CONTROL: 3, Mode.OBSERVE: 4}
    assert report.mean("preemptions_per_request", Mode.OBSERVE) == pytest.approx(1.0, abs=0.15)
    assert report.mean("preemptions_per_request", Mode.CONTROL) == 0.0
    assert report.mean("tokens_per_s", Mode.CONTROL) == pytest.approx(100.0)
    assert report.mean("ttft_s", Mode.CONTROL) == 1.0
    assert report.difference("preemptions_per_request").high < 0.0
    assert "3 windows under control, 4 of vLLM alone: preemptions_per_request 0 against" in report.line()


def test_windows_that_are_mixed_or_begun_late_or_empty_do_not_count() -> None:
    late = Windows(WINDOW_S)
    run(late, [Mode.CONTROL, Mode.CONTROL, Mode.OFF], begin_s=8.0)
    assert [window.arm for window in late.done] == [Mode.CONTROL]
    mixed = Windows(WINDOW_S)
    for step in range(40):
        mixed.step(step / 2, Mode.CONTROL if step != 12 else Mode.OFF, Counts(finished=step))
    mixed.step(20.0, Mode.CONTROL, Counts(finished=40))
    assert len(mixed.done) == 1
    idle = Windows(WINDOW_S)
    run(idle, [])
    for step in range(60):
        idle.step(step / 2, Mode.CONTROL, Counts(tokens=step))
    assert not idle.done


def test_nothing_is_said_before_there_is_anything() -> None:
    report = CanaryReport(Windows(WINDOW_S))
    report.take()
    assert math.isnan(report.mean("ttft_s", Mode.CONTROL))
    assert report.difference("ttft_s").high == math.inf
