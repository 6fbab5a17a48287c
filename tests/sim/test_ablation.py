"""Ratios of the ablation experiments, and their pictures, on numbers worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from experiments.common._ablation import pooled_ratio, ratios, total_ratio
from experiments.common._plots import canvas, save

ROWS = [
    {"policy": policy, "evictions": evictions}
    for policy, counts in {"a": (8.0, 0.0, 0.0, 4.0), "b": (4.0, 0.0, 3.0, 0.0)}.items()
    for evictions in counts
]


def test_ratios_of_nothing_to_nothing_are_one_and_of_something_to_nothing_left_out() -> None:
    np.testing.assert_array_equal(ratios(ROWS, "b", "a", "evictions"), [0.5, 1.0, np.nan, 0.0])


def test_pooled_ratios_are_geometric_with_a_floor() -> None:
    """(0.5 · 1 · 0.01)^(1/3); in total 7 to 12."""
    assert pooled_ratio(ROWS, "b", "a", "evictions") == pytest.approx(0.005 ** (1 / 3))
    assert total_ratio(ROWS, "b", "a", "evictions") == pytest.approx(7 / 12)


def test_a_total_of_nothing_has_no_ratio() -> None:
    assert np.isnan(total_ratio([{"policy": "a", "evictions": 0.0}], "a", "a", "evictions"))


def test_a_picture_repeats_byte_for_byte(tmp_path: Path) -> None:
    def draw(name: str) -> bytes:
        figure, axis = canvas()
        axis.plot([1, 2], [3, 4], label="line")
        axis.legend()
        return save(figure, name, tmp_path).read_bytes()

    assert draw("one") == draw("two")
