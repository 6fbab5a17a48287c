"""What is in a trace, by hand on small ones; and the verdict against a simulated engine."""

import dataclasses

import numpy as np
import pytest

from kvhorizon.models.performance.gpu import preset
from kvhorizon.recording.read import Recording
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.demand import kv_demand
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace, make_trace
from kvhorizon.state import EngineFacts, StepCost
from kvhorizon.whatif.engine_spec import engine_facts, load_model
from kvhorizon.whatif.inspection import inspect, judge, prefix_reuse, pressure_of

PLAIN = EngineFacts(100, 16, 8, 512, 4096, StepCost(fixed_s=0.01, weights_s=0.0))


def trace(arrival: list[float], prompt: list[int], output: list[int], **more: object) -> Trace:
    columns = np.array(arrival), np.array(prompt, np.int64), np.array(output, np.int64)
    return make_trace("t", *columns, **more)  # type: ignore[arg-type]


def test_demand_is_the_sum_over_requests() -> None:
    """Against a plain loop: each holds its prompt and a token more each step, from when it comes to its last token."""
    rng = np.random.default_rng(0)
    arrival = np.sort(rng.uniform(0.0, 30.0, 50))
    load = trace([0.0, *arrival], rng.integers(1, 400, 51).tolist(), rng.integers(1, 300, 51).tolist())
    times, held = kv_demand(load, 0.05, 97)
    assert times[-1] == (load.arrival_s + 0.05 * load.output_tokens).max()
    for at_s, tokens in zip(times, held, strict=True):
        sums = 0.0
        for came_s, prompt, output in zip(load.arrival_s, load.prompt_tokens, load.output_tokens, strict=True):
            if came_s <= at_s < came_s + 0.05 * output:
                sums += prompt + (at_s - came_s) / 0.05
        assert tokens == pytest.approx(sums, abs=1e-6)


def test_by_hand() -> None:
    """Each holds 100 + 200/2 = 200 tokens for 200 steps of 0.01 s, so eight fit into 1 600: 8 / 2 s = 4 a second."""
    found = inspect(trace([0.0, 1.0, 2.0], [100] * 3, [200] * 3), PLAIN)
    pressure = found["pressure"]
    assert pressure["held_tokens_per_request"] == 200.0
    assert pressure["requests_that_fit"] == 8.0
    assert pressure["growth_share"] == 0.5
    assert pressure["capacity_per_s"] == pytest.approx(4.0)
    assert pressure["load"] == pytest.approx(0.25)
    assert found["arrivals"]["rate_per_s"] == 1.0
    assert found["arrivals"]["burstiness"] == 0.0
    assert found["prompt_tokens"]["mean"] == 100.0
    assert pressure["full_seats_share"] == pytest.approx(1 + 2 * (200**2 / 12 / 8) ** 0.5 / 200)  # uniform over 200
    assert found["verdict"]["help"] == "little"
    assert found["recorded"] is None


def test_longer_requests_hold_memory_longer() -> None:
    """Weighted by stay: 100 steps at 50 tokens and 300 at 150 tokens."""
    pressure = pressure_of(trace([0.0, 1.0], [1, 1], [100, 300]), PLAIN)
    expected = (100 * (1 + 50) + 300 * (1 + 150)) / 400
    assert pressure["held_tokens_per_request"] == pytest.approx(expected)


def test_all_at_once_has_no_rate() -> None:
    found = inspect(trace([0.0, 0.0], [900, 900], [900, 900]), PLAIN)
    assert found["arrivals"]["rate_per_s"] is None
    assert found["pressure"]["load"] is None
    assert found["verdict"]["help"] == "much"
    assert inspect(trace([0.0], [1], [1]), PLAIN)["requests"] == 1


def test_prefixes_found_again() -> None:
    """Of 16 + 20 + 24 prompt tokens, the second's first block and the third's first two are known: 8 + 16."""
    hashes = tuple(np.array(chain) for chain in ([1, 2], [1, 3], [1, 3, 9]))
    made = trace([0.0, 1.0, 2.0], [16, 20, 24], [1, 1, 1], prefix_hashes=hashes, prefix_tokens=8)
    assert prefix_reuse(made) == pytest.approx(24 / 60)
    assert prefix_reuse(trace([0.0], [1], [1])) is None


def test_tenants_by_share() -> None:
    made = trace([0.0, 1.0, 2.0], [10, 60, 10], [10, 10, 0], key=np.array([0, 1, 0]))
    top = inspect(made, PLAIN)["tenants"]["top"]
    assert [(one["tenant"], one["requests"], one["token_share"]) for one in top] == [("1", 1, 0.7), ("0", 2, 0.3)]


def recording(preemptions: list[int], wasted: float) -> Recording:
    size = len(preemptions)
    counts = {name: np.full(size, 10) for name in ("prompt_tokens", "output_tokens", "max_tokens")}
    counts |= {name: np.zeros(size, np.int64) for name in ("priority", "recompute_tokens", "restored_tokens")}
    seconds = {name: np.ones(size) for name in ("arrival_s", "recompute_s", "ttft_s", "tpot_s", "e2e_s")}
    texts = {name: [""] * size for name in ("request_id", "tenant", "mode", "session")} | {"finish": ["stop"] * size}
    return Recording(
        counts | {"preemptions": np.array(preemptions)},
        seconds | {"wasted_flops": np.full(size, wasted / size)},
        texts,
        [[]] * size,
        {},
        np.full(size, -1),
    )


def test_what_was_seen_goes_before_what_is_expected() -> None:
    facts = dataclasses.replace(PLAIN, cost=PLAIN.cost._replace(flops_per_token=1.0))
    made = trace([0.0, 1.0, 2.0, 3.0], [10] * 4, [10] * 4)
    found = inspect(made, facts, recording([0, 1, 0, 0], wasted=4.0))
    assert found["verdict"]["help"] == "much"
    assert "0.25 evictions per request" in found["verdict"]["why"]
    assert found["recorded"]["recompute_fraction"] == pytest.approx(4.0 / (4.0 + 4 * 19))
    assert found["recorded"]["finish"] == {"stop": 4}
    assert inspect(made, facts, recording([0] * 4, wasted=0.0))["verdict"]["help"] == "little"


def test_capacity_and_verdict_against_a_simulated_engine() -> None:
    """Chat on an A100: the rate within 15 %; where no request is evicted the verdict is little, where many are,
    much."""
    facts = engine_facts(load_model("llama-3.1-8b"), preset("a100-40gb"))
    made = synthesize("chat", 6000, 0)  # so many that the last ones' lonely end hardly counts
    together = dataclasses.replace(made, arrival_s=np.zeros(len(made)))
    rate = len(made) / replay(Setup(together, facts), parse_policy("fcfs")).makespan_s
    assert pressure_of(made, facts)["capacity_per_s"] == pytest.approx(rate, rel=0.15)
    for load, evicted, verdict in ((0.5, False, "little"), (1.5, True, "much")):
        span = len(made) / rate / load
        at_load = dataclasses.replace(made, arrival_s=made.arrival_s * (span / made.arrival_s[-1]))
        outcome = replay(Setup(at_load, facts), parse_policy("fcfs"))
        assert bool(outcome.preemptions.sum()) == evicted
        assert judge(pressure_of(at_load, facts), None).help == verdict
