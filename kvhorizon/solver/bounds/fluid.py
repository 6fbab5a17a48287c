"""A lower bound of total latency that no schedule can beat, with every length known; for traces of any size.

The engine is relaxed to one machine doing one second of work per second, each request's work (`fluid_work`) may be
spread at will once it can exist. Two bounds for every division of the work; the best over several divisions is taken.

*Completions.* Schrage (Operations Research 1968): shortest remaining processing time first has, at every moment,
completed as many jobs as any schedule can. So the k-th completion of any policy is no earlier than the machine's k-th
under SRPT; nor is it earlier than the k-th smallest of arrival + least service time. The sum over k of the later of
the two is a bound. Where all events lie on a grid (unit steps), each may be rounded up to it.

*Mean busy times.* Let request n do its work u_n at times with mean M_n. Every part of that work lies in some step,
after which the request still needs a known least time; hence C_n >= M_n + d_n, d_n the work's mean least time to the
end. With weight 1/u_n per second of work, Σ M_n is linear in when work is done, and least (exchange argument; the LP
of Goemans et al., SIAM J. Discrete Math. 2002) if the machine always does available work of the request with the
least u_n. A piece is available from arrival + the least time its predecessors take.

Both hold for every policy, preemptive or not: eviction, recomputation and idle memory only add work or delay it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.solver.bounds.fluid_work import Pieces, Shares, pieces_of
from kvhorizon.state import EngineFacts

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
GROUPS = 12  # pieces of a request's decodes
ROUNDING = 1e-9  # relative; sums of floats must not lift a bound


class FluidBound(NamedTuple):
    """Lower bounds of the total latency [s]."""

    total_s: float  # the best of the others
    service_s: float  # each request alone on the engine
    completions_s: float
    busy_times_s: float
    shares: Shares  # the division of work that gave `total_s`


@counting
def shortest_remaining_first(release_s, work_s):  # type: ignore[no-untyped-def]
    """Completion times (N,), ascending, of one machine under preemptive SRPT; `release_s` ascending."""
    total = len(release_s)
    done = np.zeros(total)
    heap = [0.0 for _ in range(0)]
    now, come, finished = 0.0, 0, 0
    while finished < total:
        if not heap:
            now = max(now, release_s[come])
        while come < total and release_s[come] <= now:
            heapq.heappush(heap, work_s[come])
            come += 1
        until = release_s[come] if come < total else np.inf
        left = heapq.heappop(heap)
        if now + left <= until:
            now += left
            done[finished] = now
            finished += 1
        else:
            heapq.heappush(heap, left - (until - now))
            now = until
    return done


@counting
def weighted_busy_time(release_s, work_s, size_s):  # type: ignore[no-untyped-def]
    """min Σ_pieces ∫ t dw / size: one machine, the piece of the least size first; `release_s` ascending."""
    total = len(release_s)
    heap = [(0.0, 0.0) for _ in range(0)]
    now, come, value = 0.0, 0, 0.0
    while come < total or heap:
        if not heap:
            now = max(now, release_s[come])
        while come < total and release_s[come] <= now:
            heapq.heappush(heap, (size_s[come], work_s[come]))
            come += 1
        until = release_s[come] if come < total else np.inf
        size, left = heapq.heappop(heap)
        part = min(left, until - now)
        value += part * (now + 0.5 * part) / size
        if part < left:
            heapq.heappush(heap, (size, left - part))
            now = until
        else:
            now += part
    return value


def completions(arrival_s: FloatArray, pieces: Pieces, grid_s: float) -> float:
    """Σ over k of the earliest possible k-th completion, less Σ arrivals."""
    work_s = np.add.reduceat(pieces.work_s, pieces.first[:-1])
    machine = shortest_remaining_first(arrival_s, work_s)
    ends = np.maximum(machine * (1.0 - ROUNDING), np.sort(arrival_s + pieces.service_s))
    if grid_s > 0.0:
        ends = grid_s * np.ceil(ends / grid_s - 1e-6)
    return float(ends.sum() - arrival_s.sum())


def busy_times(arrival_s: FloatArray, pieces: Pieces) -> float:
    """Σ (M_n + d_n) of the relaxed optimum, less Σ arrivals."""
    counts = np.diff(pieces.first)
    size_s = np.add.reduceat(pieces.work_s, pieces.first[:-1])
    to_end_s = np.add.reduceat(pieces.to_end_s, pieces.first[:-1]) / size_s
    release_s = np.repeat(arrival_s, counts) + pieces.offset_s
    order = np.argsort(release_s, kind="stable")
    value = weighted_busy_time(release_s[order], pieces.work_s[order], np.repeat(size_s, counts)[order])
    return float(value + to_end_s.sum() - arrival_s.sum())


def divisions(facts: EngineFacts) -> Iterator[Shares]:
    """Divisions of the shared time that are tried; where compute costs nothing, only those of the step itself."""
    compute = (0.0, 0.5, 0.8) if facts.cost.linear_s_per_token > 0.0 else (0.0,)
    for share in compute:
        for blocks in (1.0, 0.7, 0.4, 0.0):
            yield Shares(blocks, 1.0 - blocks, 0.0, share)
    if facts.cost.linear_s_per_token > 0.0:
        yield Shares(0.5, 0.0, 0.5, 0.9)


def fluid_bound(
    arrival_s: FloatArray, prompt: IntArray, output: IntArray, facts: EngineFacts, grid_s: float = 0.0
) -> FluidBound:
    """Total latency [s] of requests (N,), sorted by arrival, that no policy on this engine can go below.

    `grid_s` > 0: all arrivals and step ends are multiples of it. Total latency / N bounds the mean.
    """
    arrival_s = np.asarray(arrival_s, np.float64)
    best = FluidBound(-math.inf, 0.0, 0.0, 0.0, Shares())
    for shares in divisions(facts):
        pieces = pieces_of(np.asarray(prompt, np.int64), np.asarray(output, np.int64), facts, shares, GROUPS)
        service_s = float(pieces.service_s.sum())
        counted, busy = completions(arrival_s, pieces, grid_s), busy_times(arrival_s, pieces)
        total_s = max(service_s, counted, busy) * (1.0 - ROUNDING)
        if grid_s > 0.0:
            total_s = grid_s * math.ceil(total_s / grid_s - 1e-6)
        if total_s > best.total_s:
            best = FluidBound(total_s, service_s, counted, busy, shares)
    return best
