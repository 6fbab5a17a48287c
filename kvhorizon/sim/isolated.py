"""What each request would take alone on its engine: the yardstick of slowdown and goodput."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.performance.step_time import step_seconds
from kvhorizon.sim.setup import Setup

FloatArray = NDArray[np.float64]


@counting
def _alone(prompt, output, most, cost, prefill_s, service_s):  # type: ignore[no-untyped-def]
    base = step_seconds(cost, 0, 0.0, 1, 0.0, 1)
    per_kv = (step_seconds(cost, 0, 0.0, 1, 1e6, 1) - base) / 1e6
    for n in range(len(prompt)):
        done = 0
        seconds = 0.0
        while done < prompt[n]:
            tokens = min(most, prompt[n] - done)
            seconds += step_seconds(cost, tokens, tokens * (done + 0.5 * (tokens + 1)), 0, 0.0, 1)
            done += tokens
        prefill_s[n] = seconds
        decodes = output[n] - 1
        service_s[n] = seconds + decodes * base + per_kv * decodes * (prompt[n] + 0.5 * (decodes + 1))


def alone(setup: Setup) -> tuple[FloatArray, FloatArray]:
    """Seconds (N,) of prefill, and (N,) from arrival to the last token, of each request on an idle engine."""
    size = len(setup.trace)
    prefill_s, service_s = np.zeros(size), np.zeros(size)
    facts = setup.facts
    _alone(
        setup.trace.prompt_tokens,
        setup.trace.output_tokens,
        facts.max_num_batched_tokens,
        facts.cost,
        prefill_s,
        service_s,
    )
    return prefill_s, service_s
