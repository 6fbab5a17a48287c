"""The drive under the virtual clock: all is served, results repeat, plain vLLM is the simulator's, plans come late."""

from collections import Counter
from collections.abc import Iterator

import pytest

from experiments.live.defaults._defaults_loads import LORA, MAX_TOKENS, NAMES, STRUCTURED, clients, make_load
from experiments.virtual._virtual_drive import CONTENDERS, MODELS, Drive, Seen, solver_child
from experiments.virtual._virtual_figures import figures
from experiments.virtual._virtual_runs import Case
from experiments.virtual._virtual_sim import _of_drive, _of_sim, both, simulated, trace_of
from kvhorizon.wire.resilient import ResilientSolver

REQUESTS = 150


@pytest.fixture(scope="module")
def solver() -> Iterator[ResilientSolver]:
    with solver_child() as child:
        yield child


def run(name: str, contender: str, solver: ResilientSolver | None = None, seed: int = 1) -> Drive:
    drive = Drive(make_load(name, REQUESTS, seed), CONTENDERS[contender], MODELS["heavy"], solver)
    drive.run()
    return drive


def times(drive: Drive) -> list[tuple[float, float, float, int, int]]:
    return [(one.sent_s, one.first_s, one.last_s, one.found, one.preemptions) for one in drive.seen]


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_continues_its_session(name: str) -> None:
    """Each prompt is the one before it, what was answered, and something new; every request is asked once."""
    load = make_load(name, REQUESTS, 0)
    asked: Counter[tuple[int, int]] = Counter()
    for client in clients(load):
        before: list[int] = []
        ask = client.next()
        while ask is not None:
            asked[ask.session, ask.turn] += 1
            assert ask.prompt[: len(before)] == before if ask.turn else True
            assert len(ask.prompt) + ask.output_tokens <= load.max_len
            assert ask.output_tokens <= MAX_TOKENS
            answer = [7] * ask.output_tokens
            before = ask.prompt + answer
            ask = client.next(answer)
    assert set(asked.values()) == {1}
    assert len(asked) == load.requests >= REQUESTS


def test_a_failed_request_ends_its_session() -> None:
    client = clients(make_load("sessions", REQUESTS, 0))[0]
    first = client.next()
    later = client.next(None)
    assert first is not None
    assert later is not None
    assert (later.turn, later.session) == (0, first.session + 1)


@pytest.mark.parametrize("contender", ["plain", "rules", "program"])
def test_everything_is_served_and_repeats(contender: str, solver: ResilientSolver) -> None:
    first, again = run("mixed", contender, solver), run("mixed", contender, solver)
    assert {one.ask.kind for one in first.seen} >= {LORA, STRUCTURED}
    assert all(one.sent_s < one.first_s <= one.last_s for one in first.seen)
    assert times(first) == times(again)
    assert first.totals == again.totals
    if contender == "program":
        assert first.totals.asked > 0
        assert first.totals.ladder["plan"] > 0
        assert solver.counts["planned"] >= 2 * first.totals.asked


@pytest.mark.parametrize("name", ["shared", "sessions"])
def test_plain_vllm_is_the_simulator_s_to_the_step(name: str) -> None:
    load = make_load(name, 300, 3)
    seen: list[Seen] = Drive(load, CONTENDERS["plain"], MODELS["heavy"]).run()
    trace = trace_of(seen)
    assert _of_drive(Drive(load, CONTENDERS["plain"], MODELS["heavy"], arrivals=seen).run()) == _of_drive(seen)
    there = _of_sim(trace, simulated(trace, load, MODELS["heavy"], "fcfs"))
    assert sum(one.preemptions for one in seen) > 0
    assert _of_drive(seen) == pytest.approx(there, rel=1e-6)


@pytest.mark.parametrize("name", ["shared", "sessions"])
def test_our_rules_are_the_simulator_s_nearly(name: str) -> None:
    here, there = both(Case(name, "heavy", 101, 300))["rules"]
    assert here[:2] == pytest.approx(there[:2], rel=0.1)
    assert here[2] == pytest.approx(there[2], abs=10)


def test_time_passes_as_the_step_time_model_says() -> None:
    drive = run("light", "plain")
    found = figures(drive.seen, drive.totals)
    assert 0.0 < found["busy"] <= 1.0
    assert drive.totals.busy_s >= drive.totals.steps * MODELS["heavy"].fixed_s
    assert drive.totals.prefill_tokens > 0
