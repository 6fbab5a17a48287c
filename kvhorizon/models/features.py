"""What an engine sees of a request before its first token, as numbers for a learned forecast.

| feature | |
|---|---|
| prompt_tokens | |
| cached_tokens | of the prompt, in blocks of prefix that an earlier request had |
| new_tokens | prompt_tokens − cached_tokens |
| previous_age_s | since the last request with the longest shared prefix, or of the same session, arrived |
| previous_output_tokens | of that request, once it has finished |
| previous_prompt_tokens | prompt_tokens − that request's |
| reuse | how often that prefix was seen |
| tenant_log_output | mean log output of the tenant's finished requests, with the mean of all as 8 of them |

−1 where there is none. All is known at arrival; memory is bounded.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

FEATURES = (
    "prompt_tokens",
    "cached_tokens",
    "new_tokens",
    "previous_age_s",
    "previous_output_tokens",
    "previous_prompt_tokens",
    "reuse",
    "tenant_log_output",
)
NONE = -1.0
MOST_PREFIXES = 1 << 18
MOST_REQUESTS = 1 << 16
MOST_TENANTS = 1 << 12
TENANT_STRENGTH = 8.0

Value = TypeVar("Value")
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Recorded(NamedTuple):
    """N requests of a recording, sorted by arrival."""

    arrival_s: FloatArray  # (N,)
    finish_s: FloatArray  # (N,)
    prompt_tokens: IntArray  # (N,)
    output_tokens: IntArray  # (N,)
    tenant: IntArray  # (N,)
    session: IntArray | None = None  # (N,) −1 where a request continues nothing
    prefix_hashes: tuple[IntArray, ...] | None = None
    prefix_tokens: int = 0  # prompt tokens that one prefix hash stands for


@dataclass(slots=True)
class _Seen:
    """A request, as later ones look back at it."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: float = NONE


class FeatureReader:
    """Reads requests in order of arrival; `finish` tells it how long they became."""

    def __init__(self, prefix_tokens: int = 0) -> None:
        self._prefix_tokens = prefix_tokens  # prompt tokens that one prefix hash stands for
        self._requests: OrderedDict[int, _Seen] = OrderedDict()
        self._prefixes: OrderedDict[int, tuple[int, int]] = OrderedDict()  # hash -> last request, times seen
        self._sessions: OrderedDict[int, int] = OrderedDict()
        self._tenants: OrderedDict[int, tuple[float, float]] = OrderedDict()  # number finished, sum of log output
        self._all = (0.0, 0.0)

    def arrive(
        self, request: int, now_s: float, prompt_tokens: int, tenant: int, session: int, prefix: list[int]
    ) -> list[float]:
        """The features of a request, named by a number of its own; `session` is −1 where it continues nothing."""
        shared = next((k for k, block in enumerate(prefix) if block not in self._prefixes), len(prefix))
        before, times = self._prefixes[prefix[shared - 1]] if shared else (self._sessions.get(session, -1), 0)
        row = self._row(before, times, now_s, prompt_tokens, shared)
        row.append(self._tenant_mean(tenant))
        self._remember(request, now_s, prompt_tokens, session, prefix)
        return row

    def finish(self, request: int, tenant: int, output_tokens: int) -> None:
        """Note how long a request became."""
        if request in self._requests:
            self._requests[request].output_tokens = float(output_tokens)
        log = math.log(max(output_tokens, 1))
        number, total = self._tenants.pop(tenant, (0.0, 0.0))
        _keep(self._tenants, tenant, (number + 1.0, total + log), MOST_TENANTS)
        self._all = (self._all[0] + 1.0, self._all[1] + log)

    def _row(self, before: int, times: int, now_s: float, prompt_tokens: int, shared: int) -> list[float]:
        cached = min(shared * self._prefix_tokens, prompt_tokens)
        row = [float(prompt_tokens), float(cached), float(prompt_tokens - cached)]
        seen = self._requests.get(before)
        if seen is None:
            return [*row, NONE, NONE, NONE, float(times)]
        row += [now_s - seen.arrival_s, seen.output_tokens, float(prompt_tokens - seen.prompt_tokens)]
        return [*row, float(times)]

    def _tenant_mean(self, tenant: int) -> float:
        number, total = self._tenants.get(tenant, (0.0, 0.0))
        mean = self._all[1] / self._all[0] if self._all[0] else 0.0
        return (total + TENANT_STRENGTH * mean) / (number + TENANT_STRENGTH)

    def _remember(self, request: int, now_s: float, prompt_tokens: int, session: int, prefix: list[int]) -> None:
        _keep(self._requests, request, _Seen(now_s, prompt_tokens), MOST_REQUESTS)
        if session >= 0:
            _keep(self._sessions, session, request, MOST_REQUESTS)
        for block in prefix:
            _, times = self._prefixes.pop(block, (0, 0))
            _keep(self._prefixes, block, (request, times + 1), MOST_PREFIXES)


def _keep(table: OrderedDict[int, Value], key: int, value: Value, most: int) -> None:
    """Set a key, the newest now, and forget the oldest beyond `most`."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)


def features_of(requests: Recorded) -> FloatArray:
    """(N, F) features of recorded requests, sorted by arrival, each from what had arrived and finished before it."""
    reader = FeatureReader(requests.prefix_tokens)
    by_finish = np.argsort(requests.finish_s, kind="stable")
    rows, done = [], 0
    for n, now_s in enumerate(requests.arrival_s.tolist()):
        while done < len(by_finish) and requests.finish_s[by_finish[done]] <= now_s:
            ended = int(by_finish[done])
            reader.finish(ended, int(requests.tenant[ended]), int(requests.output_tokens[ended]))
            done += 1
        session = -1 if requests.session is None else int(requests.session[n])
        prefix = [] if requests.prefix_hashes is None else requests.prefix_hashes[n].tolist()
        rows.append(reader.arrive(n, now_s, int(requests.prompt_tokens[n]), int(requests.tenant[n]), session, prefix))
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))
