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
| day_sine, day_cosine | of the time of day, UTC; both 0 where it is unknown |
| structured, greedy, stops | how it is sampled: by a grammar, at temperature 0, until a stop string |

−1 where there is none. All is known at arrival; memory is bounded.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

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
    "day_sine",
    "day_cosine",
    "structured",
    "greedy",
    "stops",
)
NONE = -1.0
DAY_S = 86_400.0
SAMPLING_BITS = 3  # of the number that tells the kind of sampling: structured, greedy, stops
PREFIX_RESOLUTION = 128  # prompt tokens between two prefix hashes that are looked at
MOST_HASHES = 256  # of one prompt
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
    began_s: float | None = None  # seconds since 1970 at arrival_s = 0, where that is known
    sampling: IntArray | None = None  # (N,) `SAMPLING_BITS`, the first the lowest; −1 where unknown


class Inputs(NamedTuple):
    """What features are read from besides lengths, arrivals and tenants."""

    prefix_tokens: int = 0  # that one prefix hash stands for; 0: prefixes are unknown
    session: bool = False
    hour: bool = False
    sampling: bool = False

    @classmethod
    def of(cls, requests: Recorded) -> Inputs:
        """What a recording has."""
        tokens = 0 if requests.prefix_hashes is None else requests.prefix_tokens
        known = (one is not None for one in (requests.session, requests.began_s, requests.sampling))
        return cls(tokens, *known)

    def only(self, requests: Recorded) -> Recorded:
        """The recording without what is not among these."""
        return requests._replace(
            prefix_hashes=requests.prefix_hashes if self.prefix_tokens else None,
            session=requests.session if self.session else None,
            began_s=requests.began_s if self.hour else None,
            sampling=requests.sampling if self.sampling else None,
        )


NOTHING_MORE = Inputs()


class Finished(NamedTuple):
    """Requests that ended before the first one that is read."""

    number: float = 0.0
    log_output: float = 0.0  # its sum


NO_REQUEST = Finished()


class Arrival(NamedTuple):
    """A request as it comes."""

    now_s: float
    prompt_tokens: int
    tenant: int
    session: int = -1  # it continues nothing
    prefix: Sequence[int] = ()  # hashes as `FeatureReader.looked_at` has them
    sampling: int = -1


@dataclass(slots=True)
class _Seen:
    """A request, as later ones look back at it."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: float = NONE


class FeatureReader:
    """Reads requests in order of arrival; `finish` tells it how long they became.

    `began_s` is the time of day at `now_s` = 0, seconds since 1970, None where it is unknown; `known` is what ended
    before.
    """

    def __init__(self, prefix_tokens: int = 0, began_s: float | None = None, known: Finished = NO_REQUEST) -> None:
        self._stride = max(PREFIX_RESOLUTION // prefix_tokens, 1) if prefix_tokens else 1
        self._prefix_tokens = prefix_tokens * self._stride
        self._began_s = began_s
        self._requests: OrderedDict[int, _Seen] = OrderedDict()
        self._prefixes: OrderedDict[int, tuple[int, int]] = OrderedDict()  # hash -> last request, times seen
        self._sessions: OrderedDict[int, int] = OrderedDict()
        self._tenants: OrderedDict[int, tuple[float, float]] = OrderedDict()  # number finished, sum of log output
        self._all = known

    def arrive(self, request: int, one: Arrival) -> list[float]:
        """The features of a request, named by a number of its own."""
        prefix = one.prefix
        shared = next((k for k, block in enumerate(prefix) if block not in self._prefixes), len(prefix))
        before, times = self._prefixes[prefix[shared - 1]] if shared else (self._sessions.get(one.session, -1), 0)
        row = self._row(before, times, one.now_s, one.prompt_tokens, shared)
        row.append(self._tenant_mean(one.tenant))
        row += _day(self._began_s, one.now_s)
        row += _sampling(one.sampling)
        self._remember(request, one)
        return row

    def looked_at(self, hashes: Any) -> Any:
        """Of the hashes of a prompt's blocks, each covering all before it, those that are looked at."""
        return hashes[self._stride - 1 :: self._stride][:MOST_HASHES]

    def finish(self, request: int, tenant: int, output_tokens: int) -> None:
        """Note how long a request became."""
        if request in self._requests:
            self._requests[request].output_tokens = float(output_tokens)
        log = math.log(max(output_tokens, 1))
        number, total = self._tenants.pop(tenant, (0.0, 0.0))
        _keep(self._tenants, tenant, (number + 1.0, total + log), MOST_TENANTS)
        self._all = Finished(self._all.number + 1.0, self._all.log_output + log)

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
        mean = self._all.log_output / self._all.number if self._all.number else 0.0
        return (total + TENANT_STRENGTH * mean) / (number + TENANT_STRENGTH)

    def _remember(self, request: int, one: Arrival) -> None:
        _keep(self._requests, request, _Seen(one.now_s, one.prompt_tokens), MOST_REQUESTS)
        if one.session >= 0:
            _keep(self._sessions, one.session, request, MOST_REQUESTS)
        for block in one.prefix:
            _, times = self._prefixes.pop(block, (0, 0))
            _keep(self._prefixes, block, (request, times + 1), MOST_PREFIXES)


def _keep(table: OrderedDict[int, Value], key: int, value: Value, most: int) -> None:
    """Set a key, the newest now, and forget the oldest beyond `most`."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)


def _day(began_s: float | None, now_s: float) -> tuple[float, float]:
    """Sine and cosine of the time of day."""
    if began_s is None:
        return 0.0, 0.0
    angle = 2.0 * math.pi * ((began_s + now_s) % DAY_S) / DAY_S
    return math.sin(angle), math.cos(angle)


def _sampling(kind: int) -> list[float]:
    return [NONE if kind < 0 else float(kind >> bit & 1) for bit in range(SAMPLING_BITS)]


def features_of(requests: Recorded, known: Finished = NO_REQUEST) -> FloatArray:
    """(N, F) features of recorded requests, sorted by arrival, each from what had arrived and finished before it."""
    reader = FeatureReader(requests.prefix_tokens, requests.began_s, known)
    by_finish = np.argsort(requests.finish_s, kind="stable")
    rows, done = [], 0
    for n, now_s in enumerate(requests.arrival_s.tolist()):
        while done < len(by_finish) and requests.finish_s[by_finish[done]] <= now_s:
            ended = int(by_finish[done])
            reader.finish(ended, int(requests.tenant[ended]), int(requests.output_tokens[ended]))
            done += 1
        prefix = () if requests.prefix_hashes is None else reader.looked_at(requests.prefix_hashes[n]).tolist()
        rows.append(reader.arrive(n, _arrival(requests, n, now_s, prefix)))
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


def _arrival(requests: Recorded, n: int, now_s: float, prefix: Sequence[int]) -> Arrival:
    return Arrival(
        now_s,
        int(requests.prompt_tokens[n]),
        int(requests.tenant[n]),
        -1 if requests.session is None else int(requests.session[n]),
        prefix,
        -1 if requests.sampling is None else int(requests.sampling[n]),
    )
