"""An engine that fails in mid-run: against a naive engine in plain Python, by hand, and no request is lost."""

import dataclasses
from collections import deque

import numpy as np
import pytest
from engines import COST, facts, random_trace, trace

from kvhorizon.errors import InputError
from kvhorizon.models.performance.step_time import step_seconds
from kvhorizon.sim.engine.advance import FINISHED, TICK, advance
from kvhorizon.sim.engine.arrays import DONE, FREE, RUNNING, WAITING
from kvhorizon.sim.engine.cache import new_cache
from kvhorizon.sim.engine.failure import Failure, shut_down, strike
from kvhorizon.sim.fleet import engines as fleets
from kvhorizon.sim.fleet.engines import Fleet, Router, keys_of, play
from kvhorizon.sim.fleet.failure_cost import caught_up_s
from kvhorizon.sim.fleet.merged import repeated
from kvhorizon.sim.fleet.replica import Replica
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay, start
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.solver.heuristic.scratch import new_scratch

LOAD = random_trace(7, 200, 60 * 16, 3.0)
TIGHT = Setup(LOAD, facts(60), forecast="noisy:0.6")
SAME = ("first_token_s", "finish_s", "preemptions", "recompute_tokens", "wasted_flops", "preempted_at")
FCFS = parse_policy("fcfs")


class Naive:
    """First-come-first-served with lists and no shortcuts, by docs/how-it-works/simulator.md; counts what is computed
    twice."""

    def __init__(self, setup: Setup, failure: Failure) -> None:
        load, self.facts, self.failure = setup.trace, setup.facts, failure
        self.prompt, self.output = load.prompt_tokens.tolist(), load.output_tokens.tolist()
        size = len(self.prompt)
        self.coming = deque(enumerate(load.arrival_s.tolist()))
        self.waiting, self.running = deque[int](), list[int]()
        self.computed, self.generated, self.furthest = [0] * size, [0] * size, [0] * size
        self.again, self.evicted, self.finish_s = [0] * size, [0] * size, [0.0] * size
        self.lost: list[int] | None = None
        self.lost_tokens, self.now_s = 0, 0.0

    def run(self) -> "Naive":
        while self.coming or self.waiting or self.running:
            while self.coming and self.coming[0][1] <= self.now_s:
                self.waiting.append(self.coming.popleft()[0])
            if not self.waiting and not self.running:
                self.now_s = self.coming[0][1]
            elif self.lost is None and self.now_s >= self.failure.at_s:
                self.fail()
            else:
                self.step()
        return self

    def fail(self) -> None:
        self.lost, self.running = self.running, []
        self.lost_tokens = sum(self.computed[n] for n in self.lost)
        for n in reversed(self.lost):
            self.abandon(n)
        self.now_s = max(self.now_s, self.failure.at_s + self.failure.down_for_s)

    def abandon(self, n: int) -> None:
        self.furthest[n] = max(self.furthest[n], self.computed[n])
        self.computed[n] = 0
        self.waiting.appendleft(n)

    def lacks(self, n: int, chunks: dict[int, int]) -> bool:
        size = self.facts.block_size
        held = sum(-(-(self.computed[m] + chunks.get(m, 0)) // size) for m in {*self.running, n})
        return held > self.facts.total_blocks

    def step(self) -> None:
        budget, chunks, preempted = self.facts.max_num_batched_tokens, dict[int, int](), False
        for n in list(self.running):
            if n not in self.running or budget == 0:
                break
            chunks[n] = min(self.prompt[n] + self.generated[n] - self.computed[n], budget)
            while n in self.running and self.lacks(n, chunks):
                victim = self.running.pop()
                chunks.pop(victim, None)
                self.evicted[victim] += 1
                self.abandon(victim)
                preempted = True
            budget -= chunks.get(n, 0)
        while not preempted and self.waiting and budget > 0 and len(self.running) < self.facts.max_num_seqs:
            n = self.waiting[0]
            known = self.prompt[n] + self.generated[n]
            if self.lacks(n, {**chunks, n: known}):
                break
            self.running.append(self.waiting.popleft())
            chunks[n] = min(known, budget)
            budget -= chunks[n]
        self.execute(chunks)

    def execute(self, chunks: dict[int, int]) -> None:
        prefill = {n: c for n, c in chunks.items() if c > 1}
        pairs = sum(c * (self.computed[n] + 0.5 * (c + 1)) for n, c in prefill.items())
        decodes = [n for n, c in chunks.items() if c == 1]
        kv = float(sum(self.computed[n] + 1 for n in decodes))
        self.now_s += step_seconds(COST, sum(prefill.values()), pairs, len(decodes), kv, len(self.running))
        for n, c in chunks.items():
            self.again[n] += max(0, min(self.furthest[n] - self.computed[n], c))
            self.computed[n] += c
            if self.computed[n] == self.prompt[n] + self.generated[n]:
                self.generated[n] += 1
                if self.generated[n] == self.output[n]:
                    self.finish_s[n] = self.now_s
                    self.running.remove(n)


@pytest.mark.parametrize("blocks", [60, 2000])
@pytest.mark.parametrize("at_s", [0.0, 3.3, 31.7, 60.1])
def test_it_is_what_a_naive_engine_does(blocks: int, at_s: float) -> None:
    """With evictions and without: the same requests lose the same tokens, compute as many again, and end then."""
    setup, failure = Setup(LOAD, dataclasses.replace(facts(blocks), max_model_len=960)), Failure(at_s, 4.2)
    found, naive = replay(setup, FCFS, failure=failure), Naive(setup, failure).run()
    assert naive.lost is not None
    assert (found.lost_requests, found.lost_tokens) == (len(naive.lost), naive.lost_tokens)
    assert (found.lost_requests > 0) == (at_s > 0.0)
    assert found.recompute_tokens.tolist() == naive.again
    assert found.preemptions.tolist() == naive.evicted
    assert (found.preemptions.sum() > 0) == (blocks == 60)
    np.testing.assert_allclose(found.finish_s, naive.finish_s, rtol=1e-9)


def test_by_hand() -> None:
    """Prompt 20. The failure comes in the second step, which is finished: 2 tokens are out and 21 computed. Down for
    10 s; then one step prefills 22 tokens, of which 21 again, and gives the third; two more steps: 5 in all."""
    setup = Setup(trace([0.0], [20], [5]), facts())
    calm = replay(setup, FCFS)
    found = replay(setup, FCFS, failure=Failure(float(calm.first_token_s[0]) + 1e-6, 10.0))
    assert (found.steps, found.lost_requests, found.lost_tokens) == (5, 1, 21)
    assert found.recompute_tokens.tolist() == [21]
    assert found.preemptions.tolist() == [0]
    assert found.first_token_s[0] == calm.first_token_s[0]
    prefill_s = step_seconds(COST, 22, 22 * 23 / 2, 0, 0.0, 1)
    decodes_s = step_seconds(COST, 0, 0.0, 1, 23.0, 1) + step_seconds(COST, 0, 0.0, 1, 24.0, 1)
    assert found.finish_s[0] == pytest.approx(calm.first_token_s[0] + 1e-6 + 10.0 + prefill_s + decodes_s, rel=1e-12)


def test_a_failure_after_the_end_changes_nothing() -> None:
    """To the last bit, timeline included."""
    for name in ("fcfs", "kvhorizon:greedy"):
        calm, late = (replay(TIGHT, parse_policy(name), failure=one) for one in (None, Failure(1e8, 5.0)))
        for field in dataclasses.fields(Outcome):
            np.testing.assert_array_equal(getattr(late, field.name), getattr(calm, field.name), err_msg=field.name)


def struck_run(setup: Setup, name: str, at_s: float):  # type: ignore[no-untyped-def]
    """The engine after a failure and at its end."""
    policy = parse_policy(name)
    engine, forecast = start(setup, policy)
    size = len(setup.trace), setup.facts.max_num_seqs
    scratch, plugin = new_scratch(*size), policy.plugin.at_work(*size, setup.facts.cost)
    rest = (forecast.curves, plugin, setup.facts.cost, scratch)
    assert advance(engine, *rest, at_s, 1 << 40, True) == TICK
    lost = strike(engine)
    shut_down(engine, Failure(at_s, 2.0))
    assert len(lost.requests) > 0
    assert engine.counters[FREE] == setup.facts.total_blocks
    assert (engine.columns.computed[lost.requests] == 0).all()
    return engine, lost, lambda: advance(engine, *rest, np.inf, 1 << 40, True)


@pytest.mark.parametrize("name", ["fcfs", "kvhorizon:greedy", "priority"])
@pytest.mark.parametrize("ahead", [False, True])
def test_no_request_is_lost_and_every_block_comes_back(name: str, ahead: bool) -> None:
    ranked = dataclasses.replace(LOAD, priority=np.arange(len(LOAD)) % 3)
    engine, _, run = struck_run(dataclasses.replace(TIGHT, trace=ranked, async_scheduling=ahead), name, 20.0)
    assert run() == FINISHED
    assert (engine.columns.generated == LOAD.output_tokens).all()
    assert sorted(engine.lists.finished.tolist()) == list(range(len(LOAD)))
    assert engine.counters[FREE] == TIGHT.facts.total_blocks
    assert engine.counters[RUNNING] == engine.counters[WAITING] == 0


def test_the_prefix_cache_is_empty_afterwards() -> None:
    load = synthesize("agentic", 80, 0)
    setup = Setup(load, dataclasses.replace(facts(4000), max_model_len=64_000), prefix_caching=True)
    engine, _, run = struck_run(setup, "fcfs", 0.3 * float(load.arrival_s[-1]))
    fresh = new_cache(engine.cache.start, engine.cache.contents, 4000, 16, engine.cache.table.shape[1])
    for name in ("slot", "content", "users", "plain", "keys"):
        np.testing.assert_array_equal(getattr(engine.cache, name), getattr(fresh, name), err_msg=name)
    np.testing.assert_array_equal(engine.cache.marks[:4], fresh.marks[:4])
    assert run() == FINISHED
    assert engine.counters[FREE] == 4000
    assert (engine.columns.generated == load.output_tokens).all()


@pytest.mark.parametrize("policy", ["fcfs", "kvhorizon:greedy"])
@pytest.mark.parametrize("at_s", [0.0, 20.0])
def test_one_engine_behind_a_router_fails_as_one_alone(policy: str, at_s: float) -> None:
    chosen, failure = parse_policy(policy), Failure(at_s, 3.0)
    alone = replay(TIGHT, chosen, failure=failure)
    routed = play(TIGHT, chosen, Fleet(1, patience_s=1e8), failure)
    for name in (*SAME, "lost_requests", "lost_tokens", "steps"):
        np.testing.assert_array_equal(getattr(routed, name), getattr(alone, name), err_msg=name)


@pytest.mark.parametrize("router", fleets.ROUTERS)
@pytest.mark.parametrize("policy", ["fcfs", "kvhorizon:greedy"])
def test_the_others_take_the_requests_of_the_one_that_fails(
    policy: str, router: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are served, the tokens of the interrupted are computed again elsewhere, and no engine keeps a block."""
    engines = []
    whole = fleets.outcome_of

    def seen(setup, engine, *rest):  # type: ignore[no-untyped-def]
        engines.append(engine)
        return whole(setup, engine, *rest)

    monkeypatch.setattr(fleets, "outcome_of", seen)
    load = dataclasses.replace(LOAD, arrival_s=LOAD.arrival_s / 3, key=np.arange(200) % 7)
    busy = dataclasses.replace(TIGHT, trace=load)
    found = play(busy, parse_policy(policy), Fleet(3, router), Failure(10.0, 5.0))
    assert found.lost_requests > 0
    assert np.isfinite(found.finish_s).all()
    assert (found.first_token_s >= busy.trace.arrival_s).all()
    generated = np.max([one.columns.generated for one in engines], axis=0)
    assert (generated == LOAD.output_tokens).all()
    assert sorted(n for one in engines for n in one.lists.finished[: one.counters[DONE]].tolist()) == list(range(200))
    assert found.recompute_tokens.sum() >= found.lost_tokens
    for one in engines:
        assert one.counters[FREE] == 60
        assert one.counters[RUNNING] == one.counters[WAITING] == 0


@pytest.mark.parametrize("router", fleets.ROUTERS)
@pytest.mark.parametrize("count", [1, 3])
def test_where_no_request_is_evicted_exactly_what_was_lost_is_computed_again(router: str, count: int) -> None:
    load = dataclasses.replace(LOAD, arrival_s=LOAD.arrival_s / 3, key=np.arange(200) % 7)
    roomy = Setup(load, dataclasses.replace(facts(2000), max_model_len=960))
    found = play(roomy, FCFS, Fleet(count, router, patience_s=1e8), Failure(10.0, 5.0))
    assert found.lost_tokens > 0
    assert found.recompute_tokens.sum() == found.lost_tokens
    assert (found.recompute_tokens > 0).sum() == found.lost_requests
    assert found.preemptions.sum() == 0


@pytest.mark.parametrize("router", fleets.ROUTERS)
def test_the_router_spares_an_engine_that_is_down(router: str) -> None:
    fleet, keys = Fleet(3, router), keys_of(dataclasses.replace(LOAD, key=np.arange(200)))
    setup = dataclasses.replace(TIGHT, trace=repeated(LOAD, 1))  # of its own: times of arrival are written to it
    replicas = [Replica(setup, FCFS) for _ in range(3)]
    routed = Router(fleet, replicas, keys)
    routed.fail(Failure(1.0, 5.0))
    for n in range(60):
        routed.engine_for(n, 2.0).take(n, 2.0)
    assert set(routed.at[:60].tolist()) == {1, 2}
    for n in range(60, 120):
        routed.engine_for(n, 6.0).take(n, 6.0)
    assert 0 in routed.at[60:120]


def test_clients_may_abandon_on_an_engine_that_is_down() -> None:
    found = play(TIGHT, FCFS, Fleet(patience_s=6.0), Failure(20.0, 20.0))
    calm = play(TIGHT, FCFS, Fleet(patience_s=6.0))
    assert found.lost_requests > 0
    assert np.isfinite(found.finish_s).sum() < np.isfinite(calm.finish_s).sum()
    assert np.array_equal(np.isfinite(found.finish_s), np.isfinite(found.first_token_s))


def test_plans_go_on_after_a_failure() -> None:
    found = replay(TIGHT, parse_policy("kvhorizon"), InProcess(work=20), failure=Failure(20.0, 3.0))
    assert np.isfinite(found.finish_s).all()
    assert found.plans["program"] > 0
    assert found.lost_requests > 0


def test_the_timeline_shows_an_empty_pool_while_it_is_down() -> None:
    line = replay(TIGHT, FCFS, failure=Failure(20.0, 3.0)).timeline
    down = line[(line[:, 0] >= 20.0) & (line[:, 0] <= 23.0) & (line[:, 1] == 0.0) & (line[:, 2] == 0.0)]
    assert len(down) >= 2
    assert (down[:, 3] > 0.0).all()


def outcome(finish_s: list[float]) -> Outcome:
    return dataclasses.replace(replay(Setup(trace([0.0], [4], [1]), facts()), FCFS), finish_s=np.array(finish_s))


@pytest.mark.parametrize(
    ("struck", "says"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0.0),  # no request was held up
        ([1.0, 2.7, 2.9, 4.0], 1.0),  # at 2 one is lacking until 2.7: then as many are done as without
        ([1.0, 5.0, 6.0, 7.0], None),  # only the last makes it even
    ],
)
def test_it_has_caught_up_when_as_many_are_done(struck: list[float], says: float | None) -> None:
    """Failure at 1.7; without it requests end at 1, 2, 3 and 4."""
    found = caught_up_s(1.7, outcome(struck), outcome([1.0, 2.0, 3.0, 4.0]))
    assert found == (None if says is None else pytest.approx(says))


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (Failure(-1.0, 1.0), "fail-at-s=-1.0"),
        (Failure(1.0, -2.0), "down-for-s=-2.0"),
        (Failure(np.nan, 1.0), "fail-at-s=nan"),
    ],
)
def test_bad_failures_are_told(failure: Failure, says: str) -> None:
    with pytest.raises(InputError, match=says):
        failure.check()
