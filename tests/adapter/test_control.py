"""What the engine is shown: the chosen, and all requests that the plugin does not choose from."""

from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Status, request, scheduler

from kvhorizon.adapter.compat import Level
from kvhorizon.adapter.control.controller import Control
from kvhorizon.adapter.control.decision_log import DecisionLog
from kvhorizon.adapter.control.plan_follower import PlanFollower
from kvhorizon.adapter.control.step_policy import Rule
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.engine_facts import UNKNOWN_COST
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.kinds.kinds import PATIENCE_S, steerable
from kvhorizon.solver.heuristic.params import GREEDY, Knob

TABLES = Forecaster().tables


def build(free: int, waiting: list[Any], knob: Knob = Knob.MEANS, **more: Any) -> Control:
    """One running request of two blocks, and those that wait."""
    fake = scheduler(total=100, free=free, **more)
    rows = Rows(8, TABLES)
    running = request("running", 20, 5, 25, status=Status.RUNNING)
    fake.running.append(running)
    rows.take(rows.add(running, 0.0, 100, 0), 0.0)
    for number, one in enumerate(waiting):
        fake.waiting.append(one)
        rows.add(one, 1.0 + number, 100, 0, steer=steerable(one))
    rule = Rule(GREEDY[knob], UNKNOWN_COST)
    return Control(Engine(fake), rows, rule, PlanFollower(0), DecisionLog(), Level.FULL)


def shown(control: Control) -> list[str]:
    """Names in the engine's queue while it schedules; and the queue is whole afterwards."""
    before = list(control.engine.scheduler.waiting)
    control.act(10.0, may_evict=True)
    names = [one.request_id for one in control.engine.scheduler.waiting]
    control.stage.restore()
    assert list(control.engine.scheduler.waiting) == before
    return names


def test_only_those_that_fit_are_shown() -> None:
    large, small = request("large", 1500, arrival_time=1.0), request("small", 16, arrival_time=2.0)
    assert shown(build(50, [large, small])) == ["small"]
    assert shown(build(2, [large, small])) == []


def test_others_pass_through_in_their_place() -> None:
    first = request("first", 16, arrival_time=1.0)
    moved = request("moved", 1500, arrival_time=2.0, kv_transfer_params={"do_remote_prefill": True})
    last = request("last", 1500, arrival_time=3.0)
    assert shown(build(50, [first, moved, last])) == ["first", "moved"]
    assert shown(build(0, [first, moved, last])) == ["moved"]


def test_what_others_are_about_to_take_is_not_given_away() -> None:
    """Of 30 free blocks the stream takes 13 of its own accord; 10 more fit beside what runs, 16 do not."""
    stream = request("stream", 200, arrival_time=1.0, resumable=True)
    assert shown(build(30, [stream, request("next", 160, arrival_time=2.0)])) == ["stream", "next"]
    assert shown(build(30, [stream, request("next", 256, arrival_time=2.0)])) == ["stream"]
    assert shown(build(30, [request("next", 256, arrival_time=2.0)])) == ["next"]


def test_behind_one_that_does_not_fit_stands_who_came_later() -> None:
    """As in vLLM's own queue: memory is being kept for it."""
    before, after = request("before", 16, arrival_time=1.0), request("after", 16, arrival_time=3.0)
    stream = request("stream", 1500, arrival_time=2.0, resumable=True)
    assert shown(build(60, [before, stream, after])) == ["before", "stream"]


def test_who_came_later_waits_for_one_that_waited_too_long() -> None:
    """The old one of 40 blocks needs nearly all 50; streams of 20 would take its place for ever."""

    def seen(age_s: float) -> list[str]:
        old, stream = request("old", 640, arrival_time=1.0), request("stream", 320, arrival_time=2.0, resumable=True)
        control = build(50, [old, stream])
        control.rows.columns.arrival_s[control.rows.slot_of["old"]] = 10.0 - age_s
        return shown(control)

    assert seen(PATIENCE_S - 1.0) == ["stream"]
    assert seen(PATIENCE_S + 1.0) == ["old"]


def test_a_stream_that_waits_again_unnoticed_is_shown() -> None:
    """vLLM moves it from running to waiting without a call of ours."""
    stream, plain = request("stream", 16, resumable=True), request("plain", 1500)
    control = build(0, [stream, plain])
    control.rows.take(control.rows.slot_of["stream"], 5.0)
    assert shown(control) == ["stream"]


def test_kv_that_comes_from_elsewhere_is_left_alone() -> None:
    loading = request("loading", 16, computed=16, status=Status.WAITING_FOR_REMOTE_KVS)
    plain = request("plain", 1500)
    assert shown(build(0, [loading, plain], connector=SimpleNamespace())) == ["loading"]


@pytest.mark.parametrize(("held", "names"), [(0, ["loading", "plain"]), (5, ["loading"])])
def test_whose_kv_is_on_its_way_will_want_room(held: int, names: list[str]) -> None:
    """Of 50 free blocks it lacks 25 of its 30 yet; the other, of 30, would fit beside what runs."""
    loading = request("loading", 480, computed=480, status=Status.WAITING_FOR_REMOTE_KVS)
    tables = SimpleNamespace(req_to_blocks={"loading": [SimpleNamespace(ref_cnt=1)] * held})
    control = build(50, [loading, request("plain", 480, arrival_time=2.0)], connector=SimpleNamespace())
    manager = control.engine.scheduler.kv_cache_manager
    manager.coordinator.single_type_managers = [tables]
    control.engine = control.batch.engine = Engine(control.engine.scheduler)
    assert shown(control) == names


def test_blocks_that_come_free_later_are_no_help_now_but_for_a_plan() -> None:
    """A step is at work on the request, and a connector may write to its blocks."""
    one = request("one", status=Status.RUNNING)
    at_work = {"_request_blocks_can_be_freed": lambda _: False}
    defers, cannot = Engine(scheduler(deferred_frees=[], **at_work)), Engine(scheduler(**at_work))
    assert [defers.gives_back(one, 3), defers.gives_back(one, 3, later=True)] == [0, 3]
    assert [cannot.gives_back(one, 3), cannot.gives_back(one, 3, later=True)] == [0, 0]


def test_who_waits_outside_the_queue_is_not_put_into_it() -> None:
    """Its KV failed to come, and it holds nothing any more; vLLM looks at it by itself, before all others."""
    failed, plain = request("failed", 16, status=Status.PREEMPTED), request("plain", 16)
    control = build(50, [failed, plain], connector=SimpleNamespace(), kv_holding_waiting=[failed])
    control.engine.scheduler.waiting.remove(failed)
    assert shown(control) == ["plain"]
    assert list(control.choice.slots) == [control.rows.slot_of["plain"]]


def test_the_next_class_comes_once_all_of_the_more_urgent_are_in() -> None:
    """Priorities 0, 1 and 2, of 1, 5 and 1 blocks, or 40 of the most urgent; no request takes its place."""
    waiting = [request("last", 16, priority=2), request("next", 80, priority=1), request("first", 16)]

    def chosen(free: int, first: int = 16) -> set[str]:
        waiting[2].num_prompt_tokens = first
        control = build(free, waiting, policy=SimpleNamespace(value="priority"))
        control.advise(10.0)
        return {control.rows.request[slot].request_id for slot in control.choice.slots}

    assert chosen(60) == {"first", "next", "last"}
    assert chosen(6) == {"first"}
    assert chosen(45, first=640) == {"first"}
    assert chosen(35, first=640) == set()


def test_out_of_order_of_several_classes_are_counted_once() -> None:
    """As if all were of one class, where all fit."""

    def owed(priorities: tuple[int, int, int]) -> tuple[int, float]:
        sizes = {"old": 160, "short": 16, "last": 16}
        waiting = [request(n, size, priority=p) for (n, size), p in zip(sizes.items(), priorities, strict=True)]
        control = build(90, waiting, Knob.BALANCED, policy=SimpleNamespace(value="priority"))
        control.advise(10.0)
        assert not control.rows.scratch.ledger[:2].any()  # advice costs the quota nothing
        assert control.choice.ledger is not None
        return len(control.choice.slots), float(control.choice.ledger[0])

    together = owed((0, 0, 0))
    assert together[0] == 3
    assert together[1] != 0.0
    assert owed((0, 0, 1)) == owed((0, 1, 2)) == together


def test_prompts_that_come_in_chunks_are_not_counted_whole() -> None:
    """A step has 256 tokens; vLLM gives each prompt at most 64 of them."""
    waiting = [request("a", 200), request("b", 200), request("c", 200)]
    assert shown(build(90, waiting)) == ["a", "b"]
    chunks = SimpleNamespace(long_prefill_token_threshold=64)
    assert shown(build(90, waiting, scheduler_config=chunks)) == ["a", "b", "c"]


def test_an_idle_engine_sees_all_requests_if_no_request_is_chosen() -> None:
    control = build(3, [request("a", 1500), request("b", 1500)])
    control.engine.scheduler.running.clear()
    control.batch.changed()
    assert shown(control) == ["a", "b"]


def test_a_hold_is_explained() -> None:
    control = build(2, [request("a", 1500)])
    control.rule.infeasible = lambda *_: False  # type: ignore[method-assign]
    assert shown(control) == []
    (held,) = control.log.of("a")
    assert (held.what, held.by) == ("held", "local")
    assert "94 blocks of 2 free" in held.why
