"""How much of what is evicted survives until its resume, in a prefix cache or in host memory, learned from counts.

    k = (restored + s·k₀) / (restored + recomputed + s)

of evicted tokens that came back and that did not; k₀ is believed at first and worth s tokens, and a token of M tokens
ago weighs e⁻¹.
"""

from __future__ import annotations

import math

BELIEVED_SHARE = 0.9  # k₀ where host memory keeps what is evicted
BELIEF_TOKENS = 16_384.0  # s
MEMORY_TOKENS = 1_048_576.0  # M


class Kept:
    """k of one engine."""

    def __init__(self, offloads: bool) -> None:
        self._believed = BELIEVED_SHARE if offloads else 0.0
        self._restored_before = self._again_before = 0  # tokens so far
        self._restored = self._seen = 0.0  # tokens, older ones fading

    def see(self, restored_tokens: int, recomputed_tokens: int) -> None:
        """Take in what was restored and computed again so far, of which the last call's is known already."""
        restored, again = restored_tokens - self._restored_before, recomputed_tokens - self._again_before
        self._restored_before, self._again_before = restored_tokens, recomputed_tokens
        fade = math.exp(-(restored + again) / MEMORY_TOKENS)
        self._restored = fade * self._restored + restored
        self._seen = fade * self._seen + restored + again

    @property
    def share(self) -> float:
        """k, within 0 … 1."""
        return (self._restored + BELIEF_TOKENS * self._believed) / (self._seen + BELIEF_TOKENS)
