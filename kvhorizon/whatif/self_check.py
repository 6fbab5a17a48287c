"""Does the simulated engine do what the recorded one did? Told before anything else is.

The recorded arrivals and lengths are replayed first-come-first-served, as vLLM schedules by itself, and the means of
time to first token and per output token and the number of evictions are compared with what was recorded. Where the step
time was fitted to the recording's first half, only requests whose first token came in the second half count.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.recording.read import Recording
from kvhorizon.sim.fitted_clock import Seen, fit_clock
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace, window
from kvhorizon.state import EngineFacts, StepCost

FloatArray = NDArray[np.float64]
TOLERANCE = 0.10  # relative; beyond it the recorded and the simulated engine are said to differ
FCFS = parse_policy("fcfs")
MOST_LEVEL, LEVEL_TRIALS = 1.3, 12
FEW_EVICTIONS = 5  # differences of so many say nothing
LEFT_ALONE = {"observe", "advise", "off", ""}  # modes in which vLLM decides


class Check(NamedTuple):
    """Means over the requests compared."""

    requests: int
    clock: str  # given, or fitted
    recorded: dict[str, float]
    predicted: dict[str, float]
    errors: dict[str, float]
    differs: tuple[str, ...]  # names of what is beyond the tolerance

    def says(self) -> str:
        """In a sentence, or two."""
        told = ", ".join(
            f"{label} {self.predicted[name]:.3g}{unit} where {self.recorded[name]:.3g}{unit} was recorded"
            for name, label, unit in LABELS
        )
        if not self.differs:
            return f"The simulated engine does as the recorded one did: {told}."
        names = " and ".join(label for name, label, _ in LABELS if name in self.differs)
        return (
            f"The simulated engine differs from the recorded one in {names}: {told}. "
            "Trust the order of the policies more than their seconds."
        )


LABELS = (
    ("ttft_s", "time to first token", " s"),
    ("tpot_s", "per output token", " s"),
    ("preemptions", "evictions", ""),
)


def seen_of(recording: Recording, most: int | None = None) -> Seen | None:
    """What was measured of the requests that a replay has, in its order; None where vLLM did not decide by itself,
    or nothing was measured."""
    counts, seconds = recording.counts, recording.seconds
    kept = np.flatnonzero(recording.replayable)[:most]
    arrival_s = seconds["arrival_s"][kept] - seconds["arrival_s"][kept].min(initial=np.inf)
    first_s, end_s = arrival_s + seconds["ttft_s"][kept], arrival_s + seconds["e2e_s"][kept]
    left_alone = set(recording.texts["mode"]) <= LEFT_ALONE
    if not left_alone or not np.isfinite(first_s).any() or not np.isfinite(end_s).any():
        return None
    prompt, output, preemptions, recompute = (
        counts[name][kept].astype(np.float64)
        for name in ("prompt_tokens", "output_tokens", "preemptions", "recompute_tokens")
    )
    return Seen(prompt, output, first_s, end_s, preemptions, recompute)


def half_s(seen: Seen) -> float:
    """The middle of the time that was recorded."""
    return 0.5 * float(np.nanmax(seen.end_s))


def clock_of(seen: Seen | None, trace: Trace, facts: EngineFacts, prefix_caching: bool = False) -> tuple[StepCost, str]:
    """The engine's step time as the recording's first half shows it; what is given where that says too little.

    `fit_clock` finds the shape; the level, to which queues are sensitive, is then set so that a replay of the first
    half has given as many first and last tokens, as soon, as the recorded engine had.
    """
    fitted = None if seen is None else fit_clock(seen, half_s(seen), facts.cost)
    if seen is None or fitted is None:
        return facts.cost, "given"
    until_s = half_s(seen)
    early = int(np.searchsorted(trace.arrival_s, until_s, side="right"))
    first_half = window(trace, 0, early)
    wanted_s = _waited_s(seen.first_s[:early], seen.end_s[:early], until_s)
    low, high = math.log(1.0 / MOST_LEVEL), math.log(MOST_LEVEL)
    for _ in range(LEVEL_TRIALS):
        middle = 0.5 * (low + high)
        asked = dataclasses.replace(facts, cost=_at_level(fitted, math.exp(middle)))
        outcome = replay(Setup(first_half, asked, prefix_caching=prefix_caching), FCFS)
        if _waited_s(outcome.first_token_s, outcome.finish_s, until_s) < wanted_s:
            low = middle
        else:
            high = middle
    return _at_level(fitted, math.exp(0.5 * (low + high))), "fitted"


def _waited_s(first_s: FloatArray, end_s: FloatArray, until_s: float) -> float:
    """Sum of the times of first and last tokens; those that had not come count as coming at `until_s`."""
    return float(sum(np.minimum(np.nan_to_num(times, nan=until_s), until_s).sum() for times in (first_s, end_s)))


def _at_level(cost: StepCost, level: float) -> StepCost:
    seconds = ("fixed_s", "linear_s_per_token", "kv_read_s_per_token", "sequence_s")
    return cost._replace(**{name: level * getattr(cost, name) for name in seconds})


def check(seen: Seen, clock: str, trace: Trace, outcome: Outcome) -> Check | None:
    """The replay against what was recorded; None where no request can be compared."""
    measured = np.isfinite(seen.first_s) & np.isfinite(seen.end_s)
    of = measured & (seen.first_s > half_s(seen)) if clock == "fitted" else measured
    several = of & (seen.output_tokens > 1)
    if not of.any() or not several.any():
        return None
    recorded = _means(seen.first_s, seen.end_s, seen.preemptions, trace, of, several)
    predicted = _means(outcome.first_token_s, outcome.finish_s, outcome.preemptions, trace, of, several)
    errors = {name: abs(predicted[name] - recorded[name]) / max(recorded[name], 1e-9) for name in recorded}
    errors["preemptions"] = abs(predicted["preemptions"] - recorded["preemptions"]) / max(recorded["preemptions"], 1.0)
    few = abs(predicted["preemptions"] - recorded["preemptions"]) <= FEW_EVICTIONS
    differs = tuple(name for name, error in errors.items() if error > TOLERANCE and not (name == "preemptions" and few))
    return Check(int(of.sum()), clock, recorded, predicted, errors, differs)


def _means(
    first_s: FloatArray,
    end_s: FloatArray,
    preemptions: NDArray[Any],
    trace: Trace,
    of: NDArray[np.bool_],
    several: NDArray[np.bool_],
) -> dict[str, float]:
    tpot_s = (end_s - first_s)[several] / (trace.output_tokens[several] - 1)
    return {
        "ttft_s": float((first_s - trace.arrival_s)[of].mean()),
        "tpot_s": float(tpot_s.mean()),
        "preemptions": float(preemptions[of].sum()),
    }
