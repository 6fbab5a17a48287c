"""What the engine is shown of its own waiting queue for one call of `schedule()`, and the queue as it was afterwards.

Between `present` and `restore` the engine works on a short queue of those shown, and the long one is not touched, so
that a step costs nothing per waiting request. `restore` gives the queue back: the same object, all that are still
waiting in the old order, behind those that the engine has put in front meanwhile.
"""

from __future__ import annotations

import heapq
import operator
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

_ARRIVAL = operator.attrgetter("arrival_time")
_length = deque.__len__  # to ask vLLM's deque itself takes two calls more, and bisection asks often
_FEW = 16  # removals from the long queue that are done one by one


class Stage(Protocol):
    """One engine's queue. `present` and `restore` come in pairs; without `present`, `restore` does nothing."""

    @property
    def hidden(self) -> int:
        """Requests that the engine does not see at the moment."""
        ...

    def present(self, scheduler: Any, shown: Sequence[Any]) -> None:
        """Show these requests only, each of them in `scheduler.waiting`, in this order."""
        ...

    def restore(self) -> None:
        """Undo `present`."""
        ...


class ListStage:
    """A queue in order of arrival: a deque, as `compat` makes sure."""

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._queue: Any = None
        self._short: Any = None
        self._shown: Sequence[Any] = ()

    @property
    def hidden(self) -> int:
        """See `Stage`."""
        return len(self._queue) - len(self._shown) if self._queue is not None else 0

    def present(self, scheduler: Any, shown: Sequence[Any]) -> None:
        """See `Stage`."""
        queue = scheduler.waiting
        if type(self._short) is not type(queue):
            self._short = type(queue)()
        self._short.extend(shown)
        self._scheduler, self._queue, self._shown = scheduler, queue, shown
        scheduler.waiting = self._short

    def restore(self) -> None:
        """See `Stage`."""
        queue, self._queue = self._queue, None
        if queue is None:
            return
        self._scheduler.waiting = queue
        short, shown, self._shown = self._short, self._shown, ()
        if not _length(short) and len(shown) <= _FEW:  # most often all that was shown is admitted
            for request in shown:
                _remove(queue, request)
        elif not shown:  # those in it were evicted
            queue.extendleft(reversed(short))
            short.clear()
        else:
            left = list(short)
            short.clear()
            _take_out(queue, shown, {id(request) for request in left})
            before = {id(request) for request in shown}
            queue.extendleft(request for request in reversed(left) if id(request) not in before)


def _take_out(queue: Any, shown: Sequence[Any], left: set[int]) -> None:
    """The queue without those who were shown and are not `left`."""
    gone = [request for request in shown if id(request) not in left]
    if len(gone) <= _FEW:
        for request in gone:
            _remove(queue, request)
        return
    lost = {id(request) for request in gone}
    kept = [request for request in queue if id(request) not in lost]
    queue.clear()
    queue.extend(kept)


def _remove(queue: Any, request: Any) -> None:
    """Where it should be by its arrival, or else where it is: a search would touch all that came before."""
    size = _length(queue)
    place = bisect_left(queue, request.arrival_time, 0, size, key=_ARRIVAL)
    if place < size and queue[place] is request:
        del queue[place]
    else:
        queue.remove(request)


class HeapStage:
    """A queue by priority; its order is the engine's own, so only what is hidden matters."""

    def __init__(self) -> None:
        self.hidden = 0
        self._queue: Any = None
        self._order: list[Any] = []
        self._shown: Sequence[Any] = ()

    def present(self, scheduler: Any, shown: Sequence[Any]) -> None:
        """See `Stage`."""
        queue, visible = scheduler.waiting, list(shown)
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
