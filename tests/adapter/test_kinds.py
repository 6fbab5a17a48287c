"""Which requests are chosen from, which LoRA adapters have a place, and where multimodal requests stand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from fakes import Status, request, scheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.kinds.encoders import unsure_last
from kvhorizon.adapter.kinds.grammars import Grammars
from kvhorizon.adapter.kinds.kinds import PATIENCE_S, ready, steerable
from kvhorizon.adapter.kinds.lora import Adapters

TABLES = Forecaster().tables
NOW_S = 100.0


def test_only_what_comes_from_elsewhere_passes_by_itself() -> None:
    lora, structured = SimpleNamespace(lora_int_id=1), SimpleNamespace(grammar=None)
    for kind in ({}, {"lora_request": lora}, {"structured_output_request": structured}, {"mm_features": [1]}):
        assert steerable(request("a", **kind))
    assert steerable(request("a", prompt_embeds=object()))
    for kind in ({"resumable": True}, {"pooling_params": 1}, {"kv_transfer_params": {"a": 1}}):
        assert not steerable(request("a", **kind))


def test_a_grammar_is_ready_failed_or_to_come() -> None:
    grammars = Grammars()
    status = Status.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    both = {name: SimpleNamespace(grammar=None) for name in ("good", "bad")}
    requests = {name: request(name, status=status, structured_output_request=one) for name, one in both.items()}
    for one in (*requests.values(), request("text")):
        grammars.note(one)
    assert (len(grammars), grammars.settle(), ready(requests["good"])) == (2, [], False)
    both["good"].grammar, both["bad"].grammar = object(), ValueError("no such thing")
    assert grammars.settle() == [requests["good"]]
    assert (ready(requests["good"]), ready(requests["bad"])) == (True, False)
    assert list(grammars.failed) == ["bad"]
    grammars.leave("bad")
    assert len(grammars) == 0


def build(running: list[int], waiting: list[tuple[int, float, int]], limit: int, priority: bool) -> tuple[Any, Any]:
    """Adapters of the running; (adapter, age in seconds, priority) of the waiting."""
    policy = SimpleNamespace(value="priority" if priority else "fcfs")
    engine = Engine(scheduler(lora_config=SimpleNamespace(max_loras=limit), policy=policy))
    rows = Rows(8, TABLES)
    for number, (adapter, age_s, level) in enumerate([(one, 1.0, 0) for one in running] + waiting):
        lora = SimpleNamespace(lora_int_id=adapter) if adapter else None
        one = request(f"r{number}", lora_request=lora, priority=level)
        slot = rows.add(one, NOW_S - age_s, 10, 0)
        if number < len(running):
            rows.take(slot, 0.0)
    return Adapters(engine, rows), rows


def reference(running: list[int], waiting: list[tuple[int, float, int]], limit: int, priority: bool) -> list[int]:
    """Places of the waiting that may join, in plain Python."""
    seated = list(dict.fromkeys(one for one in running if one))
    users = {one: running.count(one) for one in seated}
    order = sorted(range(len(waiting)), key=lambda n: (waiting[n][2] if priority else 0, -waiting[n][1], n))
    without = [n for n in order if waiting[n][0] and waiting[n][0] not in seated]
    while without and len(seated) < limit:
        seated.append(waiting[without[0]][0])
        without = [n for n in without if waiting[n][0] not in seated]
    late = without and waiting[without[0]][1] > PATIENCE_S and users
    closed = min(users, key=lambda one: users[one]) if late else None
    kept = [n for n in order if not waiting[n][0] or waiting[n][0] in seated]
    behind = set(order[order.index(without[0]) :]) if without else set()
    return sorted(n for n in kept if not (waiting[n][0] == closed and n in behind))


@settings(deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 3), max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1.0, 20.0, 40.0]), st.integers(0, 1)), max_size=8),
    st.booleans(),
)
def test_places_of_adapters(
    limit: int, running: list[int], waiting: list[tuple[int, float, int]], priority: bool
) -> None:
    """As a plain reading of the rule; no more adapters than the limit, and who needs none is never kept out."""
    running = [one for one in running if one <= limit]
    waiting = [(adapter, age_s - 0.01 * n, level) for n, (adapter, age_s, level) in enumerate(waiting)]
    adapters, rows = build(running, waiting, limit, priority)
    slots = np.array([rows.slot_of[f"r{len(running) + n}"] for n in range(len(waiting))], dtype=np.int32)
    at_work = np.array([rows.slot_of[f"r{n}"] for n in range(len(running))], dtype=np.int32)
    found = [slots.tolist().index(slot) for slot in adapters.admissible(slots, at_work, NOW_S)]
    assert found == reference(running, waiting, limit, priority)
    assert len({waiting[n][0] for n in found} | set(running) - {0} | {0}) <= limit + 1
    assert all(n in found for n, one in enumerate(waiting) if one[0] == 0)


def image(name: str, size: int) -> Any:
    return SimpleNamespace(identifier=name, mm_position=SimpleNamespace(length=size))


def order(shown: list[Any], budget: int = 100, free: int = 100, **more: Any) -> list[str]:
    manager = SimpleNamespace(num_freeable_slots=free, cached=more.pop("cached", {}))
    fake = scheduler(encoder_cache_manager=manager, max_num_encoder_input_tokens=budget, **more)
    return [one.request_id for one in unsure_last(shown, fake)]


def test_what_may_not_be_encoded_stands_last() -> None:
    large, small = request("large", mm_features=[image("a", 80)]), request("small", mm_features=[image("b", 30)])
    again, text = request("again", mm_features=[image("a", 80)] * 2), request("text")
    assert order([large, small, text], budget=110, free=110) == ["large", "small", "text"]
    assert order([large, small, text], budget=110) == ["large", "text", "small"]
    assert order([large, small, text], free=110) == ["large", "text", "small"]
    assert order([large, small, text], budget=70) == ["text", "large", "small"]  # the small one takes no turn before it
    assert order([again, text]) == ["again", "text"]  # one image twice is made once
    assert order([large, small, text], cached={"a": {"other"}}) == ["large", "small", "text"]
    busy = request("busy", 50, computed=10, mm_features=[image("c", 60)], status=Status.RUNNING)
    assert order([large, text], running=[busy]) == ["text", "large"]
    busy.num_computed_tokens = 50
    assert order([large, text], running=[busy]) == ["large", "text"]
