"""The offline optimum against brute force and an independent check; the bound below optimum and simulated policies."""

import dataclasses
import itertools
from functools import cache

import numpy as np
import pytest
from engines import facts, random_trace

from kvhorizon.errors import InputError
from kvhorizon.sim.isolated import alone
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.bounds.fluid import fluid_bound, shortest_remaining_first, weighted_busy_time
from kvhorizon.solver.bounds.hindsight import Instance, latency, shortest_first, usage, violations
from kvhorizon.solver.bounds.hindsight_program import optimum

ABSENT, READY = -1, 0  # else: silent steps left
SECONDS = 60.0


def instance(arrival: list[int], prompt: list[int], output: list[int], pool: int, **limits: int | bool) -> Instance:
    return Instance(np.array(arrival), np.array(prompt), np.array(output), pool, **limits)  # type: ignore[arg-type]


def random_instance(seed: int, size: int, longest: int, **limits: int | bool) -> Instance:
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.integers(0, 4, size)) if seed % 2 else np.zeros(size, np.int64)
    prompt, output = rng.integers(1, 5, size), rng.integers(1, longest + 1, size)
    blocks = -(-int((prompt + output).max()) // int(limits.get("block_size", 1)))
    return Instance(arrival - arrival[0], prompt, output, blocks + int(rng.integers(0, 4)), **limits)  # type: ignore[arg-type]


def brute_force(case: Instance, preemptive: bool) -> float:
    """Least total latency, by trying every decision in every step."""
    size, last = len(case), int(case.arrival.max() + case.output.sum()) + 6

    def moves(n: int, t: int, given: int, state: int) -> list[tuple[int, int, int]]:
        """(outputs, state after the step, blocks in the step) of each decision open to request n."""
        if given == case.output[n] or t < case.arrival[n]:
            return [(given, state, 0)]
        blocks = -(-(int(case.prompt[n]) + given) // case.block_size)
        silent = (
            -(-(int(case.prompt[n]) + given) // case.token_budget) - (1 if case.resume_emits else 0) if given else 0
        )
        begin = (given, silent - 1, blocks) if silent else (given + 1, READY, blocks)
        if state == ABSENT:
            return [(given, ABSENT, 0), begin]
        if state > READY:
            return [(given, state - 1, blocks)]
        run = (given + 1, READY, blocks)
        if not preemptive or given == 0:
            return [run]
        return [run, (given, ABSENT, 0), *([begin] if silent else [])]

    @cache
    def best(t: int, states: tuple[tuple[int, int], ...]) -> float:
        open_ = [n for n in range(size) if states[n][0] < case.output[n]]
        if not open_:
            return 0.0
        if t > last:
            return float("inf")
        least = float("inf")
        for chosen in itertools.product(*(moves(n, t, *states[n]) for n in range(size))):
            if sum(move[2] for move in chosen) <= case.pool_blocks:
                least = min(least, best(t + 1, tuple((move[0], move[1]) for move in chosen)))
        return least + sum(case.arrival[n] <= t for n in open_)

    return best(0, tuple((0, ABSENT) for _ in range(size)))


CONVENTIONS = [
    {},
    {"resume_emits": True},
    {"token_budget": 4},
    {"token_budget": 4, "resume_emits": True},
    {"block_size": 2, "resume_emits": True},
]


@pytest.mark.parametrize("limits", CONVENTIONS)
@pytest.mark.parametrize("preemptive", [False, True])
def test_brute_force_finds_the_same_optimum(limits: dict[str, int | bool], preemptive: bool) -> None:
    for seed in range(4):
        case = random_instance(seed, 3 if seed else 4, 4 if seed else 2, **limits)
        found = optimum(case, preemptive, SECONDS)
        assert found.proven
        assert found.latency == brute_force(case, preemptive)


def test_five_requests_by_brute_force() -> None:
    case = random_instance(1, 5, 2, resume_emits=True)
    for preemptive in (False, True):
        assert optimum(case, preemptive, SECONDS).latency == brute_force(case, preemptive)


@pytest.mark.parametrize("limits", CONVENTIONS)
def test_the_schedule_is_one_and_costs_what_was_claimed(limits: dict[str, int | bool]) -> None:
    """Checked without the program; preemption never costs, and neither do the bounds exceed either optimum."""
    for seed in range(10, 14):
        case = random_instance(seed, 6, 5, **limits)
        whole, broken = optimum(case, False, SECONDS), optimum(case, True, SECONDS)
        assert whole.schedule is not None
        assert broken.schedule is not None
        assert violations(case, whole.schedule, preemptive=False) == []
        assert violations(case, broken.schedule, preemptive=True) == []
        assert latency(case, whole.schedule) == whole.latency
        assert latency(case, broken.schedule) == broken.latency <= whole.latency <= latency(case, shortest_first(case))
        bound = fluid_bound(case.arrival, case.prompt, case.output, case.facts(), grid_s=1.0)
        assert bound.total_s <= broken.latency


def test_preemption_pays_by_hand() -> None:
    """Pool 6. A long request (prompt 1, output 6) begins; at step 2 a short one (prompt 6, output 1) comes.

    Whole runs: the short one first, the long one in steps 3 … 8, latency 1 + 9. Evicted after two outputs, the long one
    comes back at step 3: it ends at 7 if the resuming step gives an output, else at 8.
    """
    case = instance([0, 2], [1, 6], [6, 1], 6)
    assert optimum(case, False, SECONDS).latency == 10
    assert optimum(case, True, SECONDS).latency == 9
    found = optimum(dataclasses.replace(case, resume_emits=True), True, SECONDS)
    assert found.latency == 8
    assert found.schedule is not None
    assert [emitted.tolist() for emitted in found.schedule] == [[0, 1, 3, 4, 5, 6], [2]]


def test_the_check_names_what_is_wrong() -> None:
    case = instance([0, 1], [2, 2], [2, 1], 3)
    assert violations(case, [np.array([0, 1]), np.array([2])], False) == []
    assert violations(case, [np.array([0, 1]), np.array([1])], False) == ["step 1 overflows"]
    assert violations(case, [np.array([0, 3]), np.array([0])], False) == [
        "request 0 is evicted",
        "request 1 runs before it arrives",
        "step 0 overflows",
    ]
    assert violations(case, [np.array([0]), np.array([4])], True) == ["request 0 gives 1 outputs"]
    broken = instance([0], [2], [3], 8, token_budget=2)
    assert violations(broken, [np.array([0, 2, 3])], True) == ["output 1 of request 0 comes too soon"]
    assert usage(broken, [np.array([0, 4, 5])]).tolist() == [2, 0, 3, 3, 3, 4]


def test_mc_sf_by_hand() -> None:
    """Pool 10. The first two (prompts 2, outputs 3 and 4) hold 4, 6, 8, then 5 blocks. The third (prompt 4, output 5)
    would make 14 of the 8 in step 2, so it waits; at step 3 it makes 9 of the 5, then holds 5 … 8 alone, and begins."""
    case = instance([0, 0, 0], [2, 2, 4], [3, 4, 5], 10)
    schedule = shortest_first(case)
    assert [emitted.tolist() for emitted in schedule] == [[0, 1, 2], [0, 1, 2, 3], [3, 4, 5, 6, 7]]
    assert usage(case, schedule).tolist() == [4, 6, 8, 9, 5, 6, 7, 8]
    assert latency(case, schedule) == 3 + 4 + 8


def test_mc_sf_does_not_look_past_the_first_that_fails() -> None:
    """Pool 6. The next in order of output (prompt 5) does not fit beside the first; the third would, but waits with it.
    Of a request that is still to come it knows nothing: it begins the long one at once."""
    case = instance([0, 0, 0], [2, 5, 1], [1, 2, 3], 6)
    assert [emitted[0] for emitted in shortest_first(case)] == [0, 1, 3]
    late = instance([0, 1], [4, 2], [3, 1], 6)
    assert [emitted[0] for emitted in shortest_first(late)] == [0, 3]


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"arrival": [1, 0]}, "must ascend"), ({"output": [1, 0]}, "must be >= 1"), ({"pool": 3}, "pool_blocks=3")],
)
def test_what_is_no_instance_is_refused(changed: dict[str, object], says: str) -> None:
    parts: dict[str, object] = {"arrival": [0, 1], "prompt": [2, 2], "output": [3, 1], "pool": 8}
    with pytest.raises(InputError, match=says):
        instance(**{**parts, **changed})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="token_budget"):
        instance([0], [3], [1], 8, token_budget=2)


def test_the_two_machines_by_hand() -> None:
    """Work 4 at 0, 1 at 1: SRPT ends the second at 2, the first at 5. By least size: the same order; mean busy times
    1.5 and (1 · ½ + 3 · 3.5) / 4 = 2.75."""
    release, work = np.array([0.0, 1.0]), np.array([4.0, 1.0])
    assert shortest_remaining_first(release, work).tolist() == [2.0, 5.0]
    assert weighted_busy_time(release, work, work) == pytest.approx(1.5 + 2.75)


@pytest.mark.parametrize(("seed", "batched"), [(0, 64), (1, 512), (2, 64)])
def test_no_simulated_policy_goes_below_the_bound(seed: int, batched: int) -> None:
    """Chunked prefills, full pools and evictions included."""
    trace = random_trace(seed, 60, 100 * 16, (5.0, 30.0, 300.0)[seed])
    engine = facts(130 + 200 * seed, 16, 12 + 20 * seed, batched)
    bound = fluid_bound(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, engine)
    for name in ("fcfs", "mc-sf", "srpt", "kvhorizon:greedy"):
        outcome = replay(Setup(trace, engine, forecast="oracle"), parse_policy(name))
        assert (outcome.finish_s - trace.arrival_s).sum() >= bound.total_s
    assert bound.total_s >= bound.service_s * (1.0 - 1e-6)


def test_alone_the_bound_is_nearly_met() -> None:
    """Requests that never meet: what is left is the difference between a prefill's cost and its least."""
    trace = random_trace(1, 20, 60 * 16, 0.01)
    setup = Setup(trace, facts(200))
    bound = fluid_bound(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, setup.facts)
    assert 0.97 <= bound.total_s / alone(setup)[1].sum() <= 1.0
