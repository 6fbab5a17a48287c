"""In plain words: what the pairs of windows have shown of each measure."""

from __future__ import annotations

from kvhorizon.adapter.guardrail.evidence import MARGINS, Evidence
from kvhorizon.adapter.guardrail.meter import Seen
from kvhorizon.adapter.telemetry.canary import Sample

SAID = {
    "wait_s": "the wait for the start",
    "token_s": "the time per token",
    "tokens_per_s": "throughput",
    "preemptions_per_s": "evictions",
}


class Verdict:
    """Means of each measure over the pairs that counted, of control and of vLLM alone."""

    def __init__(self) -> None:
        self.means = {margin.measure: (Sample(), Sample()) for margin in MARGINS}

    def add(self, control: Seen, native: Seen) -> None:
        """One more pair."""
        for measure, arms in self.means.items():
            for arm, seen in zip(arms, (control, native), strict=True):
                arm.add(getattr(seen, measure))

    def line(self, evidence: Evidence, measure: str) -> str:
        """Of one measure: in how many pairs control was worse by more than the margin, and the means."""
        margin = next(margin for margin in MARGINS if margin.measure == measure)
        control, native = self.means[measure]
        change = f" ({control.mean / native.mean - 1.0:+.0%})" if native.mean > 0.0 else ""
        return (
            f"in {evidence.worse[measure]} of {evidence.pairs} pairs of windows {SAID[measure]} was worse by more than "
            f"{margin.share:.0%}, on average {control.mean:.4g} against {native.mean:.4g} {margin.unit}{change}"
        )

    def lines(self, evidence: Evidence) -> str:
        """Of all measures, one a line."""
        return "\n".join(self.line(evidence, margin.measure) for margin in MARGINS)
