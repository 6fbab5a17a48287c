"""By how much a token of prefill lengthens a step, learned from the engine's own steps.

Least squares of step time on (1, prefill tokens), with older steps fading; a slope below zero counts as zero. Until
there is evidence, it is the price that the model's shape and the GPU give.
"""

from __future__ import annotations

FADING = 0.995  # weight of a step after the next one
LEAST = 50.0  # steps' worth of evidence before the slope counts in full


class PrefillPrice:
    """Of one engine."""

    def __init__(self, prior_s: float) -> None:
        """`prior_s` [s/token] is what is believed before any step."""
        self._prior_s = prior_s
        self._weight = self._tokens = self._squares = self._time = self._product = 0.0

    def see(self, step_s: float, prefill_tokens: int) -> None:
        """A step of so many prefill tokens took so long."""
        self._weight = FADING * self._weight + 1.0
        self._tokens = FADING * self._tokens + prefill_tokens
        self._squares = FADING * self._squares + prefill_tokens * prefill_tokens
        self._time = FADING * self._time + step_s
        self._product = FADING * self._product + step_s * prefill_tokens

    @property
    def seconds(self) -> float:
        """Per token [s], >= 0."""
        spread = self._weight * self._squares - self._tokens * self._tokens
        if self._weight < 2.0 or spread <= 0.0:
            return self._prior_s
        slope = max((self._weight * self._product - self._tokens * self._time) / spread, 0.0)
        share = min(self._weight / LEAST, 1.0)
        return share * slope + (1.0 - share) * self._prior_s
