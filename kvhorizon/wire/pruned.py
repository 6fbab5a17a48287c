"""Of a long queue, the requests that a plan is made for: those that came first, and those with least to do.

A plan looks some seconds ahead and names which requests to admit meanwhile; what it does not name waits for the rules
beside the engine, as ever. So a queue of a hundred thousand costs a plan no more than one of thousands, and fits into a
message.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvhorizon.state import FloatArray, Requests, Snapshot
from kvhorizon.wire.convert import COLUMNS

MOST_WAITING = 8_192
_LEAST_WEIGHT = 1e-9

Mask = NDArray[np.bool_]


def pruned(snapshot: Snapshot, most: int = MOST_WAITING) -> Snapshot:
    """The snapshot with all that run and, in their order, at most so many of those that wait."""
    first, requests = snapshot.num_running, snapshot.requests
    if len(requests) - first <= most:
        return snapshot
    kept = np.ones(len(requests), dtype=bool)
    kept[first:] = _least(requests.arrival_s[first:], most - most // 2)
    rest = first + np.flatnonzero(~kept[first:])
    kept[rest] = _least(_to_do(requests)[rest], most // 2)
    return replace(snapshot, requests=Requests(**{name: getattr(requests, name)[kept] for name, _, _ in COLUMNS}))


def _to_do(requests: Requests) -> FloatArray:
    """(N,) Tokens that a request is expected to hold in the end, over its weight; the scale stands for its forecast."""
    expected = np.where(requests.forecast_scale > 0.0, requests.forecast_scale, requests.output_limit_tokens)
    to_hold = requests.prompt_tokens + np.maximum(expected, requests.generated_tokens)
    return to_hold / np.maximum(requests.weight, _LEAST_WEIGHT)


def _least(values: FloatArray, count: int) -> Mask:
    """(n,) Whether a value is among the `count` least; of equals the first."""
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(values, kind="stable")[:count]] = True
    return chosen
