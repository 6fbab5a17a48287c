"""A request trace: columns, sorted by arrival; made whole with a checksum, and cut into windows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """N requests. `key` numbers the tenant or client (0 where unknown); `prefix_hashes` has one array per request.

    `prefix_tokens` is the number of prompt tokens one prefix hash stands for (0: the trace has none).
    """

    name: str
    sha256: str  # of the columns, so that results name their input
    arrival_s: FloatArray  # (N,) ascending, first is 0
    prompt_tokens: IntArray  # (N,) >= 1
    output_tokens: IntArray  # (N,) >= 1
    key: IntArray  # (N,)
    prefix_hashes: tuple[IntArray, ...] | None = None
    prefix_tokens: int = 0
    session: IntArray | None = None  # (N,) conversation that a request continues
    priority: IntArray | None = None  # (N,) the smaller the sooner, for engines that schedule by it
    began_s: float | None = None  # seconds since 1970 at arrival_s = 0, where that is known
    sampling: IntArray | None = (
        None  # (N,) kinds of sampling as in `models.forecast.learned.features.Recorded`; -1 where unknown
    )
    slo_class: tuple[str, ...] | None = None  # (N,) class of service that a request names, "" where it names none
    key_names: tuple[str, ...] = ()  # of the tenants by number, where they have names

    @property
    def tenants(self) -> tuple[str, ...]:
        """Names of all tenants by number; the number, where there is none."""
        return (*self.key_names, *map(str, range(len(self.key_names), int(self.key.max(initial=0)) + 1)))

    def __len__(self) -> int:
        return len(self.arrival_s)


class Labels(TypedDict, total=False):
    """Columns of a trace that not every trace has, as in `Trace`."""

    prefix_hashes: tuple[IntArray, ...] | None
    prefix_tokens: int
    session: IntArray | None
    priority: IntArray | None
    began_s: float | None
    sampling: IntArray | None
    slo_class: tuple[str, ...] | None
    key_names: tuple[str, ...]


def make_trace(
    name: str,
    arrival_s: FloatArray,
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    key: IntArray | None = None,
    **labels: Unpack[Labels],
) -> Trace:
    """A trace from its columns, (N,) each, with their checksum."""
    digest = hashlib.sha256()
    for column in (arrival_s, prompt_tokens, output_tokens):
        digest.update(np.ascontiguousarray(column).tobytes())
    return Trace(
        name=name,
        sha256=digest.hexdigest(),
        arrival_s=arrival_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        key=np.zeros(len(arrival_s), np.int64) if key is None else key,
        **labels,
    )


def window(trace: Trace, first: int, size: int) -> Trace:
    """`size` requests from the `first` on, shifted to begin at 0."""
    rows = slice(first, first + size)
    return make_trace(
        trace.name,
        trace.arrival_s[rows] - trace.arrival_s[first],
        trace.prompt_tokens[rows],
        trace.output_tokens[rows],
        key=trace.key[rows],
        prefix_hashes=None if trace.prefix_hashes is None else trace.prefix_hashes[rows],
        prefix_tokens=trace.prefix_tokens,
        session=None if trace.session is None else trace.session[rows],
        priority=None if trace.priority is None else trace.priority[rows],
        began_s=None if trace.began_s is None else trace.began_s + float(trace.arrival_s[first]),
        sampling=None if trace.sampling is None else trace.sampling[rows],
        slo_class=None if trace.slo_class is None else trace.slo_class[rows],
        key_names=trace.key_names,
    )


def limit(trace: Trace, most: int) -> Trace:
    """The first `most` requests."""
    return window(trace, 0, most)
