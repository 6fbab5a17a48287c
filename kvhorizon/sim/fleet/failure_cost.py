"""What an engine's failure cost: a replay with it against the same replay without."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.sim.engine.failure import Failure
from kvhorizon.sim.metrics import spread
from kvhorizon.sim.outcome import Outcome

FloatArray = NDArray[np.float64]


def failure_cost(arrival_s: FloatArray, failure: Failure, struck: Outcome, calm: Outcome) -> dict[str, Any]:
    """Plain data; `..._more` is with the failure less without it, None where either is not known."""
    return {
        "requests_interrupted": struck.lost_requests,
        "kv_tokens_lost": struck.lost_tokens,
        **_more("ttft", struck.first_token_s - arrival_s, calm.first_token_s - arrival_s),
        **_more("e2e", struck.finish_s - arrival_s, calm.finish_s - arrival_s),
        "recompute_tokens_more": int(struck.recompute_tokens.sum() - calm.recompute_tokens.sum()),
        "preemptions_more": int(struck.preemptions.sum() - calm.preemptions.sum()),
        "unserved_more": int(np.isnan(struck.finish_s).sum() - np.isnan(calm.finish_s).sum()),
        "caught_up_s": caught_up_s(failure.at_s, struck, calm),
    }


def _more(name: str, struck_s: FloatArray, calm_s: FloatArray) -> dict[str, float | None]:
    """Of the mean and of the slowest hundredth [s]."""
    found = {}
    for part in ("mean", "p99"):
        ours, theirs = spread(struck_s)[part], spread(calm_s)[part]
        found[f"{name}_{part}_more_s"] = None if ours is None or theirs is None else ours - theirs
    return found


def caught_up_s(at_s: float, struck: Outcome, calm: Outcome) -> float | None:
    """How long after the failure as many requests were done as would have been without it [s].

    The queue is then as it would have been. 0 where no request was held up; None where that came only with the last.
    """
    ours, theirs = (np.sort(one.finish_s[np.isfinite(one.finish_s)]) for one in (struck, calm))
    times = np.unique(np.concatenate([ours, theirs]))
    times = times[times >= at_s]
    behind = np.searchsorted(ours, times, side="right") < np.searchsorted(theirs, times, side="right")
    if not behind.any():
        return 0.0
    level = np.flatnonzero(~behind & (np.arange(len(times)) > np.argmax(behind)))
    if not len(level) or times[level[0]] >= ours[-1]:
        return None
    return float(times[level[0]] - at_s)
