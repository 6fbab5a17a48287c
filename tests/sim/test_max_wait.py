"""The bound of `max-wait`, in whole replays."""

import pytest
from engines import facts, random_trace

from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup


@pytest.mark.parametrize("seconds", [2.0, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_none_is_served_much_later_than_first_come_first_served_would(seed: int, seconds: float) -> None:
    """Under a lasting overload of a tiny pool the longest wait is that of first-come-first-served and the bound, and a
    seventh for another packing of the pool; without the bound it is longer."""
    setup = Setup(random_trace(seed, 800, 60 * 16, 1.0), facts(60), forecast="noisy:0.6")
    first = {name: replay(setup, parse_policy(name)).first_token_s for name in
             ("fcfs", "kvhorizon:greedy/means", f"kvhorizon:greedy/max-wait:{seconds:g}")}  # fmt: skip
    fcfs, free, bounded = first.values()
    longest = (fcfs - setup.trace.arrival_s).max()
    assert (bounded - setup.trace.arrival_s).max() < 1.15 * longest + seconds
    assert (free - setup.trace.arrival_s).max() > 1.15 * longest + seconds
