"""Which requests are looked up again, where a cached prefix ends, and what a token of prefill costs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvhorizon.adapter.engine.clock import StepClock
from kvhorizon.adapter.prefix_cache.boundaries import Boundaries
from kvhorizon.adapter.prefix_cache.prefill_price import PrefillPrice
from kvhorizon.adapter.prefix_cache.search import boundary

CHAIN = [bytes([n]) for n in range(40)]


@given(most=st.integers(0, 40), good=st.integers(0, 40), guess=st.integers(0, 60))
def test_the_boundary_is_found_whatever_is_guessed(most: int, good: int, guess: int) -> None:
    asked = []

    def is_good(one: bytes) -> bool:
        asked.append(one)
        return CHAIN.index(one) < good

    assert boundary(CHAIN, most, guess, is_good) == min(good, most)
    assert len(asked) <= 8


def test_a_right_guess_costs_two_looks() -> None:
    asked = []
    assert boundary(CHAIN, 40, 7, lambda one: asked.append(one) or CHAIN.index(one) < 7) == 7
    assert len(asked) == 2


@given(seed=st.integers(0, 1000))
def test_those_at_a_changed_boundary_are_named_and_no_others_kept(seed: int) -> None:
    """Against all chains searched one by one."""
    rng = random.Random(seed)
    boundaries, chains = Boundaries(), {}
    for slot in range(12):
        family = rng.randrange(2)  # equal hashes follow equal ones
        chains[slot] = [bytes([family, n]) for n in range(rng.randint(0, 8))]
        found = rng.randint(0, len(chains[slot]))
        held = rng.randint(0, found)
        boundaries.put(slot, chains[slot], found, held)
        chains[slot] = [chains[slot][n] for n in {found - 1, found, held - 1, held} if 0 <= n < len(chains[slot])]
    for slot in rng.sample(range(12), 4):
        boundaries.drop(slot)
        chains[slot] = []
    changed = [bytes([0, n]) for n in range(8)]
    first, last = sorted((rng.randint(0, 8), rng.randint(0, 8)))
    boundaries.changed(changed, first, last)
    wanted = {slot for slot, at in chains.items() if set(at) & set(changed[first:last])}
    assert set(boundaries.stale) == wanted
    for slot in range(12):
        boundaries.drop(slot)
    assert not len(boundaries)
    assert not boundaries.stale
    assert not boundaries._slots
    assert not boundaries._heads
    assert not boundaries._newest


def test_a_newcomer_is_guessed_to_find_what_the_last_one_like_it_found() -> None:
    boundaries = Boundaries()
    boundaries.put(0, CHAIN, 7, 3)
    assert boundaries.like(CHAIN[:9]) == (7, 3)
    assert boundaries.like(CHAIN[1:]) == (0, 0)
    boundaries.drop(0)
    assert boundaries.like(CHAIN) == (0, 0)


def test_the_same_chain_with_more_hashes_has_another_boundary() -> None:
    boundaries = Boundaries()
    boundaries.put(0, CHAIN[:7], 7, 7)
    boundaries.put(0, CHAIN[:9], 7, 7)
    boundaries.changed(CHAIN, 7, 8)
    assert list(boundaries.stale) == [0]


def test_the_price_of_a_token_is_learned_and_never_negative() -> None:
    rng, price = random.Random(1), PrefillPrice(5e-3)
    assert price.seconds == 5e-3
    for _ in range(300):
        tokens = rng.choice([0, 0, 100, 700])
        price.see(0.01 + 2e-4 * tokens + rng.gauss(0.0, 1e-3), tokens)
    assert price.seconds == pytest.approx(2e-4, rel=0.05)
    falling = PrefillPrice(0.0)
    for tokens in [0, 100] * 100:
        falling.see(0.1 - 1e-4 * tokens, tokens)
    assert falling.seconds == 0.0


@pytest.mark.parametrize("ahead", [False, True])
def test_a_step_is_charged_with_its_own_tokens(ahead: bool) -> None:
    """Steps of 10 ms and 0.1 ms per prefill token; scheduled ahead, a step's time is the gap after the next."""
    now, price = [0.0], PrefillPrice(0.0)
    clock, rng = StepClock(lambda: now[0], lambda: 0.0, price, ahead), random.Random(2)
    durations = [0.01, 0.01]
    for _ in range(300):
        clock.step(True)
        tokens = rng.choice([0, 50, 400])
        clock.ran(tokens)
        durations.append(0.01 + 1e-4 * tokens)
        now[0] += durations[-2] if ahead else durations[-1]
    assert price.seconds == pytest.approx(1e-4, rel=0.02)
