"""Fail open: an error of ours is caught and counted, and the engine does what it would do without us.

After `limit` errors in a row a guard retires what it guards, until it is told otherwise. `fail_open` is for hooks whose
owner has to undo what they have begun, `guarded` for those that leave nothing behind.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

logger = logging.getLogger(__name__)

RETIRE_AFTER = 5


class FailsOpen(Protocol):
    """Whose hooks never raise."""

    def failed(self, hook: str, error: Exception) -> None:
        """An error came in a hook: leave nothing half done."""
        ...


class Guarded(Protocol):
    """Whose hooks a guard watches."""

    guard: Guard


G = TypeVar("G", bound=FailsOpen)
H = TypeVar("H", bound=Guarded)
P = ParamSpec("P")


def fail_open(hook: Callable[Concatenate[G, P], None]) -> Callable[Concatenate[G, P], None]:
    """The hook, an error in which goes to `failed`; whatever it is, requests go on being served."""

    def without_harm(self: G, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self.failed(hook.__name__, error)

    functools.update_wrapper(without_harm, hook)
    return without_harm


def guarded(hook: Callable[Concatenate[H, P], None]) -> Callable[Concatenate[H, P], None]:
    """The hook, an error in which its owner's guard counts; once that has retired, nothing."""

    def without_harm(self: H, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.guard.retired:
            return
        try:
            hook(self, *args, **kwargs)
        except Exception as error:  # whatever it is, the engine goes on
            self.guard.failed(hook.__name__, error)
        else:
            if self.guard.in_a_row:
                self.guard.succeeded()

    functools.update_wrapper(without_harm, hook)
    return without_harm


class Guard:
    """Of one part of the plugin. `failures` counts errors by the hook in which they came."""

    def __init__(self, name: str, limit: int = RETIRE_AFTER) -> None:
        self.name = name
        self.retired = False
        self.failures: Counter[str] = Counter()
        self.in_a_row = 0
        self._limit = limit

    @property
    def total(self) -> int:
        """Errors so far."""
        return self.failures.total()

    def failed(self, hook: str, error: BaseException) -> None:
        """An error came; the first of each hook is logged with its trace."""
        self.failures[hook] += 1
        self.in_a_row += 1
        if self.failures[hook] == 1:
            logger.error("kvhorizon %s failed in %s; vLLM goes on alone", self.name, hook, exc_info=error)
        if self.in_a_row >= self._limit and not self.retired:
            self.retired = True
            logger.error("kvhorizon %s retires after %d errors in a row", self.name, self.in_a_row)

    def succeeded(self) -> None:
        """A whole step went well."""
        self.in_a_row = 0

    def recall(self) -> None:
        """Back to work."""
        self.retired = False
        self.in_a_row = 0
