"""One thing at a time in this process, so that a budget in seconds is spent on the plan and not on waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST_S = 0.2  # until one goes ahead beside another that takes too long


class Turn:
    """Whose turn it is. Whoever hangs keeps the others waiting only so long."""

    def __init__(self) -> None:
        self._semaphore = threading.Semaphore()

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Work while no other does."""
        mine = self._semaphore.acquire(timeout=_LONGEST_S)
        try:
            yield
        finally:
            if mine:
                self._semaphore.release()

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Whether no other works; if so, no other will meanwhile."""
        mine = self._semaphore.acquire(blocking=False)
        try:
            yield mine
        finally:
            if mine:
                self._semaphore.release()
