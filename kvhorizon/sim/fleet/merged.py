"""Several engines' outcomes as one, over requests that clients may have asked for several times."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace

TIMELINE_POINTS = 2000


def repeated(trace: Trace, tries: int) -> Trace:
    """The trace with room for so many tries of each request, one after the other."""

    def again(column: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        return None if column is None else np.tile(column, tries)

    return dataclasses.replace(
        trace,
        arrival_s=np.tile(trace.arrival_s, tries),
        prompt_tokens=np.tile(trace.prompt_tokens, tries),
        output_tokens=np.tile(trace.output_tokens, tries),
        key=np.tile(trace.key, tries),
        prefix_hashes=None if trace.prefix_hashes is None else trace.prefix_hashes * tries,
        session=again(trace.session),
        priority=again(trace.priority),
        sampling=again(trace.sampling),
        slo_class=None if trace.slo_class is None else trace.slo_class * tries,
    )


def merged(setup: Setup, outcomes: list[Outcome], tries: int) -> Outcome:
    """One outcome over the original requests: times of the try that was served, sums of what all tries cost.

    Times of engines are means over the replicas; the timeline adds up their blocks and requests.
    """
    first = len(setup.trace)

    def over(name: str) -> NDArray[np.float64]:
        return np.stack([getattr(one, name).reshape(tries, first) for one in outcomes])

    def served(name: str) -> NDArray[np.float64]:
        times = over(name).reshape(-1, first)
        return np.where(np.isfinite(times).any(axis=0), np.nanmin(np.nan_to_num(times, nan=np.inf), axis=0), np.nan)

    finish_s = served("finish_s")
    events = np.concatenate([one.preempted_at for one in outcomes])
    events[:, 1] %= first
    return Outcome(
        first_token_s=served("first_token_s"),
        finish_s=finish_s,
        preemptions=over("preemptions").sum(axis=(0, 1)).astype(np.int64),
        recompute_tokens=over("recompute_tokens").sum(axis=(0, 1)).astype(np.int64),
        wasted_flops=over("wasted_flops").sum(axis=(0, 1)),
        steps=sum(one.steps for one in outcomes),
        busy_s=sum(one.busy_s for one in outcomes) / len(outcomes),
        makespan_s=float(np.nanmax(finish_s)) if np.isfinite(finish_s).any() else 0.0,
        recompute_s=sum(one.recompute_s for one in outcomes) / len(outcomes),
        flops=sum(one.flops for one in outcomes),
        timeline=_together([one.timeline for one in outcomes if len(one.timeline)]),
        preempted_at=events[np.argsort(events[:, 0], kind="stable")],
        near_end_preemptions=sum(one.near_end_preemptions for one in outcomes),
        cached_tokens=sum(one.cached_tokens for one in outcomes),
        looked_up_tokens=sum(one.looked_up_tokens for one in outcomes),
        cached_prompt_tokens=sum(one.cached_prompt_tokens for one in outcomes),
        computed_tokens=sum(one.computed_tokens for one in outcomes),
        lost_requests=sum(one.lost_requests for one in outcomes),
        lost_tokens=sum(one.lost_tokens for one in outcomes),
    )


def _together(lines: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum of several timelines, each holding its last value."""
    if not lines:
        return np.zeros((0, 4))
    times = np.unique(np.concatenate([line[:, 0] for line in lines]))
    times = times[np.unique(np.linspace(0, len(times) - 1, TIMELINE_POINTS).astype(np.int64))]
    total = np.zeros((len(times), 3))
    for line in lines:
        place = np.searchsorted(line[:, 0], times, side="right") - 1
        total += np.where(place[:, None] >= 0, line[np.maximum(place, 0), 1:], 0.0)
    return np.column_stack([times, total])
