"""What the engine is shown of its own waiting queue for one call of `schedule()`, and the queue as it was afterwards.

The queue stays the same object. Between `present` and `restore` the requests not shown are kept here; `restore` puts
everybody who is still waiting back in the old order, behind those whom the engine has put in front meanwhile.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Stage(Protocol):
    """One queue. `present` and `restore` come in pairs; without `present`, `restore` does nothing."""

    @property
    def hidden(self) -> int:
        """Requests that the engine does not see at the moment."""
        ...

    def present(self, queue: Any, shown: Sequence[Any]) -> None:
        """Show these requests only, each of them in the queue, in this order."""
        ...

    def restore(self) -> None:
        """Undo `present`."""
        ...


class ListStage:
    """A queue in order of arrival (vLLM's is a deque)."""

    def __init__(self) -> None:
        self.hidden = 0
        self._queue: Any = None
        self._order: list[Any] = []
        self._shown: Sequence[Any] = ()

    def present(self, queue: Any, shown: Sequence[Any]) -> None:
        """See `Stage`."""
        self._order, self._shown, self._queue = list(queue), shown, queue
        self.hidden = len(self._order) - len(shown)
        queue.clear()
        queue.extend(shown)

    def restore(self) -> None:
        """See `Stage`."""
        queue, self._queue = self._queue, None
        if queue is None:
            return
        if self._shown:
            order = _still_waiting(queue, self._order, self._shown)
            queue.clear()
            queue.extend(order)
        else:
            queue.extend(self._order)
        self._order, self._shown, self.hidden = [], (), 0


class HeapStage:
    """A queue by priority; its order is the engine's own, so only what is hidden matters."""

    def __init__(self) -> None:
        self.hidden = 0
        self._queue: Any = None
        self._order: list[Any] = []
        self._shown: Sequence[Any] = ()

    def present(self, queue: Any, shown: Sequence[Any]) -> None:
        """See `Stage`."""
        visible = list(shown)
        heapq.heapify(visible)
        self._order, self._shown, self._queue = queue._heap, shown, queue
        self.hidden = len(self._order) - len(visible)
        queue._heap = visible

    def restore(self) -> None:
        """See `Stage`."""
        queue, self._queue = self._queue, None
        if queue is None:
            return
        seen, order = queue._heap, self._order
        left = {id(request) for request in seen}
        gone = {id(request) for request in self._shown} - left
        before = {id(request) for request in self._shown}
        if gone:
            order = [request for request in order if id(request) not in gone]
            heapq.heapify(order)
        for request in seen:
            if id(request) not in before:
                heapq.heappush(order, request)
        queue._heap = order
        self._order, self._shown, self.hidden = [], (), 0


def _still_waiting(queue: Iterable[Any], order: list[Any], shown: Sequence[Any]) -> list[Any]:
    """Those now in front, then the old order without those who have left."""
    now = list(queue)
    before = {id(request) for request in shown}
    gone = before - {id(request) for request in now}
    front = [request for request in now if id(request) not in before]
    if not gone:
        return front + order
    return front + [request for request in order if id(request) not in gone]
