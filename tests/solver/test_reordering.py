"""The budget of reordering where memory has slack: requests out of order get their share of what is let in, and no
more."""

import numpy as np
import pytest

from kvhorizon.sim.policies.control import UNSTEERED, Plugin
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import make_trace
from kvhorizon.solver.heuristic.out_of_order import MOST_SAVED, owed_after
from kvhorizon.solver.heuristic.params import GREEDY, Greedy, Knob, varied
from kvhorizon.state import EngineFacts, StepCost

RULE = GREEDY[Knob.BALANCED]


def test_the_share_is_kept_over_any_row_of_admissions() -> None:
    """Whoever is let in while nothing is owed may overtake: of many tokens, the share's worth did."""
    owed, by = 0.0, [0.0, 0.0]
    for context in np.random.default_rng(0).integers(10, 2000, 5000).tolist():
        overtakes = owed <= 0.0
        owed = owed_after(RULE, context, overtakes, owed)
        by[overtakes] += context
        assert -MOST_SAVED <= owed <= 2000.0
    assert by[1] / sum(by) == pytest.approx(RULE.quota.overtake_flow, abs=0.01)


@pytest.mark.parametrize("knob", [Knob.BALANCED, Knob.STRICT])
def test_old_prompts_are_served_although_short_requests_come_for_ever(knob: Knob) -> None:
    """The engine's tokens are short, its memory is not, and a short request holds next to none of what is in use."""
    old, short = 100, 4000
    trace = make_trace(
        "old and short",
        arrival_s=np.concatenate([np.zeros(old), 0.01 + 0.01 * np.arange(short)]),
        prompt_tokens=np.repeat([1000, 250], [old, short]),
        output_tokens=np.repeat([200, 1], [old, short]),
    )
    setup = Setup(trace, EngineFacts(20_000, 16, 256, 512, 8192, StepCost(0.02, 0.0)), forecast="oracle")

    def last_s(rule: Greedy | None) -> float:
        plugin = UNSTEERED if rule is None else Plugin(True, rule)
        return float(replay(setup, Policy("one", plugin=plugin), None).finish_s[:old].max())

    rule, fcfs_s = GREEDY[knob], last_s(None)
    assert last_s(rule) < fcfs_s / (1.0 - rule.quota.overtake_flow)
    assert last_s(varied(rule, slack_share=2.0)) > 4.0 * fcfs_s  # without an account
