"""How long to wait before another attempt: longer after each failure in a row."""

from __future__ import annotations


class Backoff:
    """A pause [s] that begins at `first_s` and doubles up to `longest_s`."""

    def __init__(self, first_s: float = 0.5, longest_s: float = 30.0) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._next_s = first_s

    def failed(self) -> float:
        """Seconds to wait after this failure."""
        pause_s, self._next_s = self._next_s, min(2.0 * self._next_s, self._longest_s)
        return pause_s

    def succeeded(self) -> None:
        """The next failure is the first one again."""
        self._next_s = self._first_s
