"""When vLLM decides alone: half of the time at first, three windows in a hundred later, and all of it after harm."""

from __future__ import annotations

from kvhorizon.adapter.guardrail.meter import Seen

FIRST_PAIRS = 24  # that follow each other without a gap
LONGEST_GAP = 30  # windows of control between two pairs
SETTLED = 1.0 / 3.0  # of a window, before it counts
SHORTEST_S, LONGEST_S = 2.0, 30.0  # of a window
STEPS = 50  # a window has at least
SHARE = 0.5  # of the time that a request takes in the engine, for a window
LEAST_FINISHED = 20  # requests, for that time to be known
FADE = 0.9  # of older windows in that time, per window
FIRST_BACK_S, LONGEST_BACK_S = 600.0, 86_400.0  # how long vLLM decides alone after harm
_MASK = 2**64 - 1


def gap(pairs: int, suspect: bool) -> int:
    """Windows of control until the next pair, after so many `pairs`; none while these make control `suspect`."""
    return 0 if suspect else min(max(pairs - FIRST_PAIRS, 0), LONGEST_GAP)


def coin(seed: int, pair: int) -> bool:
    """Whether vLLM goes first in a pair; fair and independent (SplitMix64: Steele, Lea & Flood, OOPSLA 2014)."""
    z = (seed + (pair + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return bool((z ^ (z >> 31)) & 1)


class Pace:
    """How long a window is, after how long requests take: what one arm leaves behind must be gone by a third of it."""

    def __init__(self) -> None:
        self._active_s = self._finished = 0.0

    def see(self, window: Seen) -> None:
        """A window in which vLLM decided: a bad rule is not to say how long requests take."""
        self._active_s = FADE * self._active_s + window.active_s
        self._finished = FADE * self._finished + window.finished

    def window_s(self, step_s: float) -> float:
        """Of the next pair, with steps so long."""
        known = self._finished >= LEAST_FINISHED
        wanted_s = SHARE * self._active_s / self._finished if known else SHORTEST_S
        return min(max(wanted_s, SHORTEST_S, STEPS * step_s), LONGEST_S)


def back_off(before_s: float) -> float:
    """How long vLLM decides alone, after the time before; 0: never yet."""
    return min(2.0 * before_s, LONGEST_BACK_S) if before_s else FIRST_BACK_S
