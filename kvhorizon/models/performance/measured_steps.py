"""What an engine's own steps tell: how long they are, and by how much a token of prefill lengthens them.

Shared by the simulator and the live step. The length is a mean in which older steps fade. The price of a token is the
least squares of step time on (1, prefill tokens), with older steps fading; a slope below zero counts as zero. Until
there is evidence, it is the price that the model's shape and the GPU give.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import compiled

FIRST_STEP_S = 0.02  # the mean before any step
STEP_WEIGHT = 0.01  # of the newest step in the mean of their length
FADING = 0.995  # weight of a step after the next one
LEAST = 50.0  # steps' worth of evidence before the slope counts in full
WEIGHT, TOKENS, SQUARES, TIME, PRODUCT, SUMS = range(6)  # places in `StepTimes.sums`


class StepTimes(NamedTuple):
    """Of one engine's steps, fading sums."""

    sums: NDArray[np.float64]  # (SUMS,) of 1, tokens, tokens², step time [s], step time · tokens


def no_steps() -> StepTimes:
    """Before any step."""
    return StepTimes(np.zeros(SUMS))


@compiled
def see_step(steps, step_s, prefill_tokens):  # type: ignore[no-untyped-def]
    """A step of so many prefill tokens took so long."""
    sums = steps.sums
    sums[WEIGHT] = FADING * sums[WEIGHT] + 1.0
    sums[TOKENS] = FADING * sums[TOKENS] + prefill_tokens
    sums[SQUARES] = FADING * sums[SQUARES] + float(prefill_tokens) * prefill_tokens
    sums[TIME] = FADING * sums[TIME] + step_s
    sums[PRODUCT] = FADING * sums[PRODUCT] + step_s * prefill_tokens


@compiled
def prefill_price(steps, prior_s):  # type: ignore[no-untyped-def]
    """Seconds per token of prefill, >= 0; `prior_s` is what is believed before any step."""
    sums = steps.sums
    spread = sums[WEIGHT] * sums[SQUARES] - sums[TOKENS] * sums[TOKENS]
    if sums[WEIGHT] < 2.0 or spread <= 0.0:
        return prior_s
    slope = max((sums[WEIGHT] * sums[PRODUCT] - sums[TOKENS] * sums[TIME]) / spread, 0.0)
    share = min(sums[WEIGHT] / LEAST, 1.0)
    return share * slope + (1.0 - share) * prior_s
