"""What a token of prefill costs in this engine's steps (`models.performance.measured_steps`)."""

from __future__ import annotations

from kvhorizon.models.performance.measured_steps import no_steps, prefill_price, see_step


class PrefillPrice:
    """Of one engine."""

    def __init__(self, prior_s: float) -> None:
        """`prior_s` [s/token] is what is believed before any step."""
        self._prior_s = prior_s
        self._steps = no_steps()

    def see(self, step_s: float, prefill_tokens: int) -> None:
        """A step of so many prefill tokens took so long."""
        see_step(self._steps, step_s, prefill_tokens)

    @property
    def seconds(self) -> float:
        """Per token [s], >= 0."""
        return float(prefill_price(self._steps, self._prior_s))
