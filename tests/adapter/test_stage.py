"""Whatever is shown and whoever is taken, the queue afterwards holds all others in the old order."""

import heapq
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.adapter.engine.queue_view import HeapStage, ListStage


@dataclass(frozen=True, eq=False)
class Arrived:
    arrival_time: int


@settings(deadline=None)
@given(st.integers(0, 12) | st.integers(20, 40), st.data())
def test_a_queue_in_order(size: int, data: st.DataObject) -> None:
    """Most came in order of arrival; some did not, and some share a time."""
    times = data.draw(st.lists(st.integers(0, size), min_size=size, max_size=size))
    names = [Arrived(time) for time in (sorted(times) if data.draw(st.booleans()) else times)]
    queue = deque(names)
    shown = data.draw(st.permutations(names))[: data.draw(st.integers(0, size))]
    stage = ListStage()
    engine = SimpleNamespace(waiting=queue)
    stage.present(engine, shown)
    assert list(engine.waiting) == shown
    assert stage.hidden == size - len(shown)
    taken = [engine.waiting.popleft() for _ in range(data.draw(st.integers(0, len(shown))))]
    front = [Arrived(0) for _ in range(data.draw(st.integers(0, 2)))]
    engine.waiting.extendleft(front)
    stage.restore()
    assert engine.waiting is queue
    assert list(queue) == front[::-1] + [name for name in names if name not in taken]
    assert stage.hidden == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12), st.data())
def test_a_queue_by_priority(names: list[int], data: st.DataObject) -> None:
    heap = list(names)
    heapq.heapify(heap)
    queue = SimpleNamespace(_heap=heap)
    all_requests = list(heap)
    places = data.draw(st.permutations(range(len(heap))))[: data.draw(st.integers(0, len(heap)))]
    shown = [Named(heap[place]) for place in places]
    wrapped = [Named(value) for place, value in enumerate(heap) if place not in places] + shown
    heapq.heapify(wrapped)
    queue._heap = wrapped
    stage = HeapStage()
    stage.present(SimpleNamespace(waiting=queue), shown)
    assert stage.hidden == len(all_requests) - len(shown)
    taken = [heapq.heappop(queue._heap).value for _ in range(data.draw(st.integers(0, len(shown))))]
    heapq.heappush(queue._heap, Named(25))
    stage.restore()
    left = [heapq.heappop(queue._heap).value for _ in range(len(queue._heap))]
    assert left == sorted(left)
    assert sorted(left + taken) == sorted([*all_requests, 25])


def test_without_present_nothing_happens() -> None:
    for stage in (ListStage(), HeapStage()):
        stage.restore()
        assert stage.hidden == 0


class Named:
    """Orders like its value, is no other."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __lt__(self, other: "Named") -> bool:
        return self.value < other.value
