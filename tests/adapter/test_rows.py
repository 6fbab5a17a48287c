"""Rows follow the engine's events; the waiting are who waits, in order of becoming waiting."""

from fakes import request
from hypothesis import given
from hypothesis import strategies as st

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.forecasting.forecaster import Forecaster

TABLES = Forecaster().tables


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "wait", "release"]), st.integers(0, 40)), max_size=120))
def test_any_order_of_events(events: list[tuple[str, int]]) -> None:
    rows = Rows(4, TABLES, capacity=2)
    waiting: list[str] = []
    running: list[str] = []
    for number, (what, pick) in enumerate(events):
        if what == "add":
            rows.add(request(f"r{number}", prompt=number + 1), float(number), 50, 0, steer=number % 3 > 0)
            waiting.append(f"r{number}")
        elif what == "take" and waiting:
            name = waiting.pop(pick % len(waiting))
            rows.take(rows.slot_of[name], 1.0)
            running.append(name)
        elif what == "wait" and running:
            name = running.pop(pick % len(running))
            rows.wait(rows.slot_of[name])
            waiting.append(name)
        elif what == "release" and waiting + running:
            name = (waiting + running)[pick % len(waiting + running)]
            (waiting if name in waiting else running).remove(name)
            assert rows.release(name) is not None
        if number % 5 == 0:
            check(rows, waiting, running)
    check(rows, waiting, running)


def check(rows: Rows, waiting: list[str], running: list[str]) -> None:
    slots = rows.waiting().tolist()
    assert [rows.request[slot].request_id for slot in slots] == waiting
    assert rows.num_waiting == len(waiting)
    assert rows.num_passing == sum(int(name[1:]) % 3 == 0 for name in waiting)
    assert set(rows.slot_of) == set(waiting) | set(running)
    for name, slot in rows.slot_of.items():
        assert rows.columns.prompt[slot] == int(name[1:]) + 1
        assert rows.slot_of_handle[int(rows.extra.handle[slot])] == slot
    assert len(rows.slot_of_handle) == len(rows.slot_of)


def test_a_name_unknown_is_no_error() -> None:
    assert Rows(4, TABLES).release("no_request") is None
