"""Pauses of sessions: learned as they end or go on, and for how long keeping a session's KV pays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvhorizon.models.forecast.returns import (
    BINS,
    EDGES,
    FIRST_TURN,
    LATER_TURN,
    Pauses,
    bin_of,
    new_pauses,
    note_away,
    note_back,
    note_begun,
    price_pauses,
)


def seen(pauses_s: list[float], away_s: list[float] | None = None, kind: int = FIRST_TURN) -> Pauses:
    """After pauses of these lengths, and of sessions that have been away for `away_s` and are not back."""
    pauses = new_pauses()
    for pause_s in pauses_s:
        note_begun(pauses, kind)
        note_away(pauses, kind, 0, bin_of(pause_s))
        note_back(pauses, kind, bin_of(pause_s))
    for elapsed_s in away_s or []:
        note_begun(pauses, kind)
        note_away(pauses, kind, 0, bin_of(elapsed_s))
    return pauses


def shares(pauses: Pauses, horizon_s: float, kind: int = FIRST_TURN) -> np.ndarray:
    price_pauses(pauses, horizon_s)
    return pauses.kept_share[kind]


def test_bins_cover_all_times() -> None:
    assert [bin_of(elapsed_s) for elapsed_s in (0.0, 0.049, 0.05, 1e9)] == [0, 0, 1, BINS - 1]
    assert all(bin_of(0.5 * (EDGES[b] + EDGES[b + 1])) == b for b in range(BINS))


def test_nothing_known_nothing_kept() -> None:
    assert shares(new_pauses(), 100.0).max() == 0.0


def test_short_pauses_are_waited_for_while_the_pool_is_dear_to_fill() -> None:
    """Exponential pauses of 0.6 s: keeping pays where filling the pool takes longer than that, and else it does not."""
    drawn = np.random.default_rng(0).exponential(0.6, 400).tolist()
    dear, cheap = shares(seen(drawn), 3.0)[0], shares(seen(drawn), 0.2)[0]
    assert dear > 0.9
    assert cheap == 0.0


def test_a_session_that_is_away_for_long_is_not_waited_for() -> None:
    """Half come back within two seconds, the others never do."""
    pauses = seen([1.0] * 100, [500.0] * 100)
    found = shares(pauses, 10.0)
    assert found[bin_of(0.3)] == pytest.approx(0.5, abs=0.1)
    assert found[bin_of(4.0)] == 0.0


def test_later_turns_are_counted_apart() -> None:
    pauses = seen([], [500.0] * 100)
    for _ in range(100):
        note_begun(pauses, LATER_TURN)
        note_away(pauses, LATER_TURN, 0, bin_of(1.0))
        note_back(pauses, LATER_TURN, bin_of(1.0))
    assert shares(pauses, 10.0, LATER_TURN)[0] > 0.8
    assert shares(pauses, 10.0, FIRST_TURN)[0] == 0.0


def test_what_was_long_ago_fades() -> None:
    """Sessions that used to return within a second take a minute now: after many of those, one second is not waited."""
    pauses = seen([1.0] * 300)
    for _ in range(3000):
        note_begun(pauses, FIRST_TURN)
        note_away(pauses, FIRST_TURN, 0, bin_of(60.0))
        note_back(pauses, FIRST_TURN, bin_of(60.0))
    assert shares(pauses, 5.0)[0] == 0.0


@given(st.lists(st.floats(0.001, 1e5), max_size=40), st.lists(st.floats(0.001, 1e5), max_size=40), st.floats(1e-3, 1e4))
def test_shares_are_probabilities(back_s: list[float], away_s: list[float], horizon_s: float) -> None:
    found = shares(seen(back_s, away_s), horizon_s)
    assert (found >= 0.0).all()
    assert (found <= 1.0).all()
