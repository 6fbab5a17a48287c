"""When a session is back after a turn of it has ended, learned as it happens, and whether its KV is worth keeping.

Pauses are counted in bins of elapsed time (Kaplan and Meier, 1958): of the sessions away when a bin began, the
share that came back within it. Those still away count as far as they have got, so that long pauses are not overlooked.
Older pauses fade. Pauses after a first turn are counted apart from those after a later one, since many that look
like a first turn are all that will ever come.

Keeping the KV of a session, c tokens, while it is away takes c·(time away) of memory. If it is not kept, it is computed
again, and all KV in use waits for that: with m tokens in use, m·c·b, where b is the price of a token of prefill [s]. So
with the time in which all KV in use could be computed, H = m·b, keeping it for at most h seconds is worth

    c · max over h of  H·P(back within h) − E[min(time away, h)]

which is positive as long as the session is more likely to be back within the next H seconds than not, roughly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import compiled

FloatArray = NDArray[np.float64]

FIRST_TURN, LATER_TURN, KINDS = range(3)  # which turn has ended
BINS = 40
FIRST_S = 0.05  # end of the first bin
RATIO = 2.0**0.5  # of the ends of two bins
FADING = 0.998  # weight of a pause after the next one
PRIOR = 1.0  # sessions taken to have stayed away, in each bin
EDGES = np.concatenate([[0.0], FIRST_S * RATIO ** np.arange(BINS)])  # (BINS + 1,) s; the last is half a day


class Pauses(NamedTuple):
    """What is known of pauses, (KINDS, BINS) each."""

    away: FloatArray  # sessions that were away when the bin began
    back: FloatArray  # of them those that came back within it
    kept_share: FloatArray  # of the KV of a session away so long: expected to be used again, if that is worth it


def new_pauses() -> Pauses:
    """Nothing is known, and no session is expected back."""
    return Pauses(np.zeros((KINDS, BINS)), np.zeros((KINDS, BINS)), np.zeros((KINDS, BINS)))


@compiled
def bin_of(elapsed_s):  # type: ignore[no-untyped-def]
    """The bin of a time since a turn ended; the last one for all longer times."""
    b = 0
    while b < BINS - 1 and elapsed_s >= EDGES[b + 1]:
        b += 1
    return b


@compiled
def note_begun(pauses, kind):  # type: ignore[no-untyped-def]
    """A pause begins: those before it fade."""
    for b in range(BINS):
        pauses.away[kind, b] *= FADING
        pauses.back[kind, b] *= FADING


@compiled
def note_away(pauses, kind, first, last):  # type: ignore[no-untyped-def]
    """A session has been away since before bins `first` to `last` began."""
    for b in range(first, last + 1):
        pauses.away[kind, b] += 1.0


@compiled
def note_back(pauses, kind, b):  # type: ignore[no-untyped-def]
    """A session that was noted as away for bin b is back."""
    pauses.back[kind, b] += 1.0


@compiled
def worth_keeping(pauses, kind, b, horizon_s):  # type: ignore[no-untyped-def]
    """Probability that a session away since the middle of bin b is back while keeping its KV pays; 0: it does not pay.

    `horizon_s` is H of the module's formula.
    """
    now = 0.5 * (EDGES[b] + EDGES[b + 1])
    end = now + horizon_s
    away, spent, best, share = 1.0, 0.0, 0.0, 0.0
    for k in range(b, BINS):
        until = min(EDGES[k + 1], end)
        part = (until - now) / (EDGES[k + 1] - EDGES[k])
        before = away
        away *= (1.0 - pauses.back[kind, k] / (pauses.away[kind, k] + PRIOR)) ** part
        spent += 0.5 * (before + away) * (until - now)
        value = horizon_s * (1.0 - away) - spent
        if value > best:
            best, share = value, 1.0 - away
        now = until
        if now >= end:
            break
    return share


@compiled
def price_pauses(pauses, horizon_s):  # type: ignore[no-untyped-def]
    """Bring `kept_share` up to date."""
    for kind in range(KINDS):
        for b in range(BINS):
            pauses.kept_share[kind, b] = worth_keeping(pauses, kind, b, horizon_s)
