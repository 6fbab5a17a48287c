"""Turns of sessions in the simulator: which request continues which, and what holding cold turns back saves."""

import numpy as np
import pytest

from kvhorizon.sim.engine.turns import NO_TURN, learned_price, note_step, turns_of
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace, make_trace
from kvhorizon.state import EngineFacts, StepCost

# Prefills are dear: all of the pool takes 2 s.
COST = StepCost(5e-3, 0.0, linear_s_per_token=2.5e-4, attention_s_per_pair=0.0, kv_read_s_per_token=6e-7)
FACTS = EngineFacts(256, 32, 64, 2048, 4096, COST, engine_epoch=1)


def trace(**columns: object) -> Trace:
    """Four requests a second apart."""
    return make_trace("turns", np.arange(4.0), np.full(4, 64), np.full(4, 8), **columns)  # type: ignore[arg-type]


def test_a_session_continues_its_last_request() -> None:
    turns = turns_of(trace(session=np.array([7, 8, 7, -1])))
    assert turns.before.tolist() == [NO_TURN, NO_TURN, 0, NO_TURN]
    assert turns.after.tolist() == [2, NO_TURN, NO_TURN, NO_TURN]


def test_a_longer_prompt_continues_the_one_it_contains() -> None:
    """The second has the same prompt as the first, and continues nothing; the third continues the newest of them."""
    hashes = tuple(np.array(one) for one in ([1, 2], [1, 2], [1, 2, 3], [4]))
    turns = turns_of(trace(prefix_hashes=hashes, prefix_tokens=32))
    assert turns.before.tolist() == [NO_TURN, NO_TURN, 1, NO_TURN]


def sessions(seed: int, users: int, turns: int) -> Trace:
    """Sessions of growing prompts; a turn comes some seconds after the one before it."""
    draw = np.random.default_rng(seed)
    arrival_s, prompt, output, session = [], [], [], []
    for user in range(users):
        now_s, context = draw.uniform(0.0, 20.0), 0
        for _ in range(turns):
            context += int(draw.integers(100, 300))
            arrival_s.append(now_s)
            prompt.append(context)
            output.append(int(draw.integers(10, 60)))
            session.append(user)
            context += output[-1]
            now_s += draw.exponential(2.0) + 4.0
    order = np.argsort(arrival_s, kind="stable")
    columns = [np.array(one)[order] for one in (arrival_s, prompt, output)]
    columns[0] = columns[0] - columns[0][0]
    return make_trace("sessions", *columns, session=np.array(session)[order])


@pytest.fixture(scope="module")
def computed() -> dict[str, tuple[int, float]]:
    """Tokens computed and mean end-to-end time [s] of each policy, where more sessions are active than fit."""
    found = {}
    for policy in ("fcfs", "kvhorizon:greedy/means", "kvhorizon:greedy"):
        asked = sessions(100, users=60, turns=6)
        outcome = replay(Setup(asked, FACTS, max_tokens=64, prefix_caching=True), parse_policy(policy))
        assert np.isfinite(outcome.finish_s).all()
        found[policy] = outcome.computed_tokens, float((outcome.finish_s - asked.arrival_s).mean())
    return found


def test_histories_are_computed_again_less_often(computed: dict[str, tuple[int, float]]) -> None:
    assert computed["kvhorizon:greedy"][0] < 0.75 * computed["fcfs"][0]
    assert computed["kvhorizon:greedy/means"][0] < 0.75 * computed["fcfs"][0]


def test_requests_end_sooner(computed: dict[str, tuple[int, float]]) -> None:
    assert computed["kvhorizon:greedy"][1] < 0.7 * computed["fcfs"][1]


def test_the_price_of_a_prefill_is_learned_of_the_steps_that_ran() -> None:
    """Prefills of 2.5e-4 s a token, believed to cost a tenth; without turns what is believed stays."""
    rng, turns = np.random.default_rng(0), turns_of(trace(session=np.array([7, 8, 7, -1])))
    assert learned_price(turns, 2.5e-5) == 2.5e-5
    for tokens in rng.integers(0, 600, 300) * rng.integers(0, 2, 300):
        note_step(turns, 5e-3 + 2.5e-4 * tokens + rng.normal(0.0, 1e-4), tokens)
    assert learned_price(turns, 2.5e-5) == pytest.approx(2.5e-4, rel=0.01)
    note_step(None, 1.0, 100)
    assert learned_price(None, 2.5e-5) == 2.5e-5
