"""Hints are read or refused, never guessed at."""

import math

import numpy as np
import pytest

from kvhorizon.adapter.forecast import HINT_SIGMAS, HISTORY_ROWS, Forecaster, curve_of, key_of
from kvhorizon.adapter.hints import POINT_LOG_SIGMA, Hint, read_hint
from kvhorizon.errors import InputError
from kvhorizon.models.forecast import length_key
from kvhorizon.models.history import UNIT_TOKENS


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (218, Hint(218.0, POINT_LOG_SIGMA)),
        ("218", Hint(218.0, POINT_LOG_SIGMA)),
        ([100, 400], Hint(200.0, math.log(4.0) / 3.29)),
        ("[100, 400]", Hint(200.0, math.log(4.0) / 3.29)),
        ([50, 50], Hint(50.0, 0.0)),
    ],
)
def test_good_hints(value: object, hint: Hint) -> None:
    found = read_hint({"pred_len": value})
    assert found is not None
    assert found == pytest.approx(hint)


@pytest.mark.parametrize("value", [0, -3, True, None, [1], [5, 4], [1, 2, 3], {}, "", "x" * 65, 1e12, float("nan")])
def test_bad_hints(value: object) -> None:
    with pytest.raises(InputError, match="pred_len"):
        read_hint({"pred_len": value})


def test_no_hint() -> None:
    assert read_hint(None) is None
    assert read_hint({"other": 1}) is None


def test_a_class_learns_apart() -> None:
    """Summaries are short, whatever the rest is."""
    forecaster = Forecaster()
    summary = read_hint({"pred_len": "summary"})
    key, other = key_of(100, summary), key_of(100, None)
    assert key != other
    for _ in range(200):
        forecaster.finished(key, 20)
        forecaster.finished(other, 2000)
    assert forecaster.learn()
    row, unit = curve_of(forecaster.tables, key, summary)
    other_row, _ = curve_of(forecaster.tables, other, None)
    assert row != other_row
    assert unit == UNIT_TOKENS
    assert forecaster.tables.residual[row][0] < 0.2 * forecaster.tables.residual[other_row][0]


def test_a_number_takes_the_next_wider_curve() -> None:
    row, scale = curve_of(Forecaster().tables, 0, Hint(300.0, 0.25))
    assert HINT_SIGMAS[row - HISTORY_ROWS] == 0.3
    assert scale == 300.0


def test_tables_are_never_modified() -> None:
    forecaster = Forecaster()
    before = forecaster.tables
    copy = before.survival.copy()
    for _ in range(100):
        forecaster.finished(0, 50)
    assert forecaster.learn()
    assert forecaster.tables.version == before.version + 1
    assert (before.survival == copy).all()
    assert not forecaster.learn()


def test_keys_are_the_simulators() -> None:
    prompts = np.array([0, 1, 7, 8, 63, 64, 511, 512, 4096, 10**9])
    for tenant in (0, 5):
        found = [key_of(prompt, Hint(key=tenant)) for prompt in prompts.tolist()]
        assert found == length_key(np.full(len(prompts), tenant), prompts).tolist()
