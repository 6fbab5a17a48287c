"""An engine that fails in mid-run: all KV is lost, and no step is taken until it is back.

The step under way at `at_s` is finished first. Requests keep the output that their clients have. Who ran waits again
before all others, in order, as if preempted, and is prefilled again with its output so far; that is no eviction and is
counted apart. The prefix cache is empty afterwards; KV in host memory, and what the forecast has learned, survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.sim.engine.arrays import (
    FREE,
    NEAR_END,
    NOW,
    PREEMPTED,
    RUNNING,
    SAMPLES,
    TIMELINE_ROWS,
    UNDER_WAY,
    UNDER_WAY_S,
    WAITING,
    Engine,
)
from kvhorizon.sim.engine.cache import clear
from kvhorizon.sim.engine.step import preempt

LONGEST_S = 1e9


@dataclass(frozen=True, slots=True)
class Failure:
    """When the engine fails (of several, the first), in virtual seconds, and for how long it is away."""

    at_s: float
    down_for_s: float

    @property
    def back_s(self) -> float:
        """When it takes steps again."""
        return self.at_s + self.down_for_s

    def check(self) -> None:
        """Raises InputError."""
        if not 0.0 <= self.at_s < LONGEST_S:
            raise InputError("fail-at-s", self.at_s, f"must be >= 0 and < {LONGEST_S:g}")
        if not 0.0 <= self.down_for_s < LONGEST_S:
            raise InputError("down-for-s", self.down_for_s, f"must be >= 0 and < {LONGEST_S:g}")


class Lost(NamedTuple):
    """What a failure took."""

    requests: NDArray[np.int32]  # who ran, in the engine's order
    tokens: int  # computed tokens whose KV they held


def strike(engine: Engine) -> Lost:
    """The engine fails, between two steps; who ran waits in front of its queue. `shut_down` follows."""
    count, columns = engine.counters, engine.columns
    ran = engine.lists.running[: count[RUNNING]].copy()
    tokens = int(columns.computed[ran].sum())
    evictions = count[PREEMPTED], count[NEAR_END]
    while count[RUNNING] > 0:
        preempt(engine, count[RUNNING] - 1)
    count[PREEMPTED], count[NEAR_END] = evictions
    return Lost(ran, tokens)


def shut_down(engine: Engine, failure: Failure) -> None:
    """Without running requests: nothing is under way or cached any more, and time passes until the engine is back."""
    count, clock = engine.counters, engine.clock
    engine.live.under_way[:] = 0
    count[UNDER_WAY] = 0
    clock[UNDER_WAY_S] = 0.0
    if engine.cache is not None:
        clear(engine.cache)
    for moment_s in (failure.at_s, failure.back_s):
        clock[NOW] = max(clock[NOW], moment_s)
        _note(engine)


def _note(engine: Engine) -> None:
    """Keep a row of the timeline now, whenever the last was; when full, in place of the last."""
    count = engine.counters
    place = min(int(count[SAMPLES]), TIMELINE_ROWS - 1)
    in_use = engine.limits.total_blocks - count[FREE]
    engine.lists.timeline[place] = engine.clock[NOW], in_use, count[RUNNING], count[WAITING]
    count[SAMPLES] = place + 1
