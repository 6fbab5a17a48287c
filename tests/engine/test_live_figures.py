"""How the live experiments read what engines tell."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.live.serving._live_measure import BEGIN, fit_cost, work_s
from experiments.live.serving._live_model import CONFIG


def steps(tokens: list[int], seconds: list[float], ahead_s: float) -> list[list[float]]:
    """Steps back to back, each begun `ahead_s` before the one before it ends; work, begin, wall, own seconds."""
    ends = np.cumsum(seconds)
    begins = np.append(0.0, ends[:-1] - ahead_s)
    return [[t, 0, 0, 1, b, e - b, e - b] for t, b, e in zip(tokens, begins.tolist(), ends.tolist(), strict=True)]


@pytest.mark.parametrize("ahead_s", [0.0, -0.001, 0.004])
def test_a_step_lasts_until_the_next_whether_one_or_two_are_in_flight(ahead_s: float) -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(1, 500, 400).tolist()
    seconds = [0.01 + 1e-5 * count for count in tokens]

    rows = steps(tokens, seconds, ahead_s)
    cost = fit_cost(rows, CONFIG)

    assert cost.fixed_s + cost.sequence_s == pytest.approx(0.01, rel=0.15)
    assert cost.linear_s_per_token == pytest.approx(1e-5, rel=0.02)
    assert work_s([len(rows), *np.array(rows)[:, :BEGIN].sum(axis=0)], cost) == pytest.approx(sum(seconds), rel=0.02)
