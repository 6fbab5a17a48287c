"""Sessions between two turns: whose KV is still in the prefix cache, and how much of it is expected to be used again.

One ledger for the simulator and the live engine. Members lie densely; a member's place changes when another one leaves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import compiled
from kvhorizon.models.forecast.returns import Pauses, bin_of, new_pauses, note_away, note_back, note_begun, price_pauses

MOST = 2048  # sessions; of more the one that has been away longest is forgotten
REFRESH_S = 0.05  # between two sums


class IdleSessions(NamedTuple):
    """K = `MOST` places, of which the first `size[0]` are taken."""

    pauses: Pauses
    size: NDArray[np.int64]  # (1,)
    key: NDArray[np.int64]  # (K,) who it is
    kind: NDArray[np.int64]  # (K,) whether it was its first turn or a later one
    since_s: NDArray[np.float64]  # (K,) when its last turn ended
    tokens: NDArray[np.float64]  # (K,) of its own KV, as far as still cached
    noted: NDArray[np.int64]  # (K,) bins of its pause that are counted
    due_s: NDArray[np.float64]  # (1,) of the next sum
    expected: NDArray[np.float64]  # (1,) tokens, the last sum


def new_idle_sessions() -> IdleSessions:
    """None is away, and nothing is known."""
    return IdleSessions(
        pauses=new_pauses(),
        size=np.zeros(1, np.int64),
        key=np.zeros(MOST, np.int64),
        kind=np.zeros(MOST, np.int64),
        since_s=np.zeros(MOST),
        tokens=np.zeros(MOST),
        noted=np.zeros(MOST, np.int64),
        due_s=np.full(1, -np.inf),
        expected=np.zeros(1),
    )


@compiled
def place_of(idle, key):  # type: ignore[no-untyped-def]
    """Where a session is, or -1."""
    for i in range(idle.size[0]):
        if idle.key[i] == key:
            return i
    return -1


@compiled
def forget(idle, i):  # type: ignore[no-untyped-def]
    """The session at place i is none of these any more; the last one takes its place."""
    idle.size[0] -= 1
    last = idle.size[0]
    idle.key[i] = idle.key[last]
    idle.kind[i] = idle.kind[last]
    idle.since_s[i] = idle.since_s[last]
    idle.tokens[i] = idle.tokens[last]
    idle.noted[i] = idle.noted[last]


@compiled
def turn_ended(idle, key, kind, now_s, tokens):  # type: ignore[no-untyped-def]
    """A turn has ended with so many tokens of KV of its own; the session is away from now on."""
    if idle.size[0] == MOST:
        oldest = 0
        for i in range(MOST):
            if idle.since_s[i] < idle.since_s[oldest]:
                oldest = i
        forget(idle, oldest)
    i = idle.size[0]
    idle.size[0] += 1
    idle.key[i] = key
    idle.kind[i] = kind
    idle.since_s[i] = now_s
    idle.tokens[i] = tokens
    idle.noted[i] = 0
    note_begun(idle.pauses, kind)
    idle.due_s[0] = -np.inf


@compiled
def count_away(idle, i, now_s):  # type: ignore[no-untyped-def]
    """Count the pause of the session at place i as far as it has got; returns its bin."""
    b = bin_of(now_s - idle.since_s[i])
    note_away(idle.pauses, idle.kind[i], idle.noted[i], b)
    idle.noted[i] = b + 1
    return b


@compiled
def turn_came(idle, key, now_s):  # type: ignore[no-untyped-def]
    """The session's next turn is here; returns False if it was not known to be away."""
    i = place_of(idle, key)
    if i < 0:
        return False
    note_back(idle.pauses, idle.kind[i], count_away(idle, i, now_s))
    forget(idle, i)
    idle.due_s[0] = -np.inf
    return True


@compiled
def is_due(idle, now_s):  # type: ignore[no-untyped-def]
    """Whether the sum is to be made anew; who does that brings `tokens` up to date before."""
    return now_s >= idle.due_s[0]


@compiled
def expected_tokens(idle, now_s, horizon_s):  # type: ignore[no-untyped-def]
    """KV of sessions away that is expected to be used again within a time for which keeping it pays [tokens].

    `horizon_s` is the time in which all KV in use could be computed.
    """
    if not is_due(idle, now_s):
        return idle.expected[0]
    idle.due_s[0] = now_s + REFRESH_S
    price_pauses(idle.pauses, horizon_s)
    total = 0.0
    for i in range(idle.size[0]):
        total += idle.pauses.kept_share[idle.kind[i], count_away(idle, i, now_s)] * idle.tokens[i]
    idle.expected[0] = total
    return total
