"""Policies by name."""

import dataclasses

import numpy as np
import pytest
from engines import facts, trace

from kvhorizon.errors import InputError
from kvhorizon.sim.policies.baselines.named import VICTIMS
from kvhorizon.sim.policies.control import UNSTEERED
from kvhorizon.sim.policies.registry import DEFAULT_POLICIES, POLICIES, parse_policy
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.heuristic.params import GREEDY, PLANNED, Knob
from kvhorizon.solver.program.settings import settings_of


def test_the_default_ones_are_known() -> None:
    assert [parse_policy(name).name for name in DEFAULT_POLICIES] == list(DEFAULT_POLICIES)


def test_only_the_engine_itself_is_unsteered() -> None:
    for name in POLICIES:
        option = {"watermark": ":0.1", "victims": ":lifo", "admission": ":ours"}.get(name, "")
        assert (parse_policy(name + option).plugin is UNSTEERED) == (name in ("fcfs", "priority", "watermark"))


def test_knobs_reach_the_rule() -> None:
    assert parse_policy("kvhorizon:greedy/means").plugin.rule == GREEDY[Knob.MEANS]
    for name in ("kvhorizon/means", "kvhorizon:edge-only/means"):
        assert parse_policy(name).plugin.rule == PLANNED[Knob.MEANS]
    assert parse_policy("kvhorizon/means").planner == Knob.MEANS
    assert parse_policy("kvhorizon:edge-only/means").planner is None
    baseline = parse_policy("admission:ours/strict").plugin.baseline
    assert baseline is not None
    assert baseline.ours == GREEDY[Knob.STRICT]


def test_ablations_change_one_thing() -> None:
    def changed(name: str) -> dict[str, object]:
        program = parse_policy(name).program
        assert program is not None
        full = dataclasses.asdict(settings_of(Knob.MEANS))
        return {key: value for key, value in dataclasses.asdict(program).items() if value != full[key]}

    assert changed("kvhorizon:no-evict/means") == {"max_evictions": 0}
    assert changed("kvhorizon:point/means") == {"z": 0.0}
    assert changed("kvhorizon:z=2.5/means") == {"z": 2.5}
    assert parse_policy("kvhorizon/means").program is None


def test_the_victim_ablation_runs_with_the_watermark() -> None:
    assert {parse_policy(f"victims:{name}").watermark_share for name in VICTIMS} == {0.02}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("psychic", "must begin with one of a-min, admission, cost-aware"),
        ("watermark", "0 <= F < 1"),
        ("watermark:1", "0 <= F < 1"),
        ("sjf:2", "takes nothing after its name"),
        ("sjf/means", "only parts of ours take a '/KNOB'"),
        ("past-future:1", "must be a number from 0 to 0.9"),
        ("sglang:nan", "must be a number from 0 to 10"),
        ("victims:me", "needs one of cost-aware"),
        ("admission", "must be admission:ours[/KNOB] or admission:reserve"),
        ("admission:reserve/means", "only parts of ours take a '/KNOB'"),
        ("ltr:often", "ltr or ltr:preemptive"),
        ("kvhorizon:bold", "must be kvhorizon[:greedy | :edge-only | :no-evict | :point | :z=F][/KNOB]"),
        ("kvhorizon:z=-1", "kvhorizon:z=F needs 0 <= F <= 10"),
        ("kvhorizon:z=nan", "kvhorizon:z=F needs 0 <= F <= 10"),
        ("kvhorizon/fair", "one of means, balanced, strict"),
    ],
)
def test_a_bad_name_is_refused_in_one_line(policy: str, says: str) -> None:
    with pytest.raises(InputError, match="policy") as error:
        parse_policy(policy)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_output_limit_covers_the_trace() -> None:
    """1 500 rounds up to 2 048, 10 to the least limit of 1 024; a given one stands."""
    long, short = (Setup(trace([0.0], [5], [size]), facts()) for size in (1500, 10))
    assert (long.output_limit_tokens(), short.output_limit_tokens()) == (2048, 1024)
    assert Setup(short.trace, facts(), max_tokens=7).output_limit_tokens() == 7
    exact = Setup(trace([0.0], [5], [2048]), facts()).output_limit_tokens()
    assert np.log2(exact) == 11
