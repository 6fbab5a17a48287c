"""What the canary shows: windows under control against windows in which vLLM decides, with intervals.

A window counts from `SETTLED` of its length on, so that most of what the other arm left behind has gone, and only if
the mode did not change in it and some request ended. Each window gives one value per measure; the difference of the
arms' means comes with Welch's interval (Welch 1947: variances differ, degrees of freedom by Satterthwaite).
Neighbouring windows see similar traffic and are not wholly independent, which no interval of this kind knows.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from kvhorizon.adapter.modes import Mode

logger = logging.getLogger(__name__)

SETTLED = 0.25  # of a window, before it counts
LATEST = 0.5  # of a window, by which it must have begun to count
NORMAL_975 = 1.959964  # quantile of the normal distribution, for 95 %
LEAST = 3  # windows of each arm, for an interval
LINE_EVERY = 10  # windows that count, from one line in the log to the next
ARMS = (Mode.CONTROL, Mode.OBSERVE)
MEASURES = ("preemptions_per_request", "recompute_tokens_per_request", "tokens_per_s", "ttft_s")


class Counts(NamedTuple):
    """Of one engine since its start."""

    finished: int = 0  # requests
    preemptions: int = 0
    recompute_tokens: int = 0
    tokens: int = 0  # computed for the first time, of prompts and outputs
    firsts: int = 0  # requests that gave a first token
    ttft_s: float = 0.0  # of these, in all

    def since(self, before: Counts) -> Counts:
        """What has been added."""
        return Counts(
            self.finished - before.finished,
            self.preemptions - before.preemptions,
            self.recompute_tokens - before.recompute_tokens,
            self.tokens - before.tokens,
            self.firsts - before.firsts,
            self.ttft_s - before.ttft_s,
        )


class Window(NamedTuple):
    """One that counts: its arm, how long it was watched, and what came to pass meanwhile."""

    arm: Mode
    seconds: float
    counts: Counts

    def values(self) -> dict[str, float]:
        """By measure; what cannot be said of it is missing."""
        counts, found = self.counts, {}
        if counts.finished:
            found["preemptions_per_request"] = counts.preemptions / counts.finished
            found["recompute_tokens_per_request"] = counts.recompute_tokens / counts.finished
            found["tokens_per_s"] = counts.tokens / self.seconds
        if counts.firsts:
            found["ttft_s"] = counts.ttft_s / counts.firsts
        return found


class Windows:
    """The step's side: it is told each step's mode, and puts whole windows to `done`."""

    def __init__(self, window_s: float) -> None:
        self.done: deque[Window] = deque(maxlen=1024)
        self._window_s = window_s
        self._number = -1
        self._arm: Mode | None = None  # once the window has begun to count
        self._spoilt = False  # its mode changed
        self._begun = self._last = (0.0, Counts())

    def step(self, now_s: float, mode: Mode, counts: Counts) -> None:
        """A step in `mode`, with all counts up to it."""
        number, part = divmod(now_s, self._window_s)
        if number != self._number:
            self._close()
            self._number, self._arm, self._spoilt = int(number), None, False
        if part >= SETTLED * self._window_s:
            if self._arm is None:
                self._arm, self._begun = mode, (now_s, counts)
                self._spoilt = part > LATEST * self._window_s
            self._spoilt |= mode is not self._arm
        self._last = now_s, counts

    def _close(self) -> None:
        if self._arm not in ARMS or self._spoilt:
            return
        (begin_s, before), (end_s, after) = self._begun, self._last
        counts = after.since(before)
        if end_s > begin_s and counts.finished:
            self.done.append(Window(self._arm, end_s - begin_s, counts))


@dataclass(slots=True)
class Sample:
    """Running mean and sum of squared deviations (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before * (value - self.mean)


class Difference(NamedTuple):
    """Control minus vLLM alone; the interval is infinite while an arm has fewer than `LEAST` windows."""

    mean: float
    low: float
    high: float


def welch(control: Sample, observe: Sample) -> Difference:
    """Difference of means, and its interval."""
    mean = control.mean - observe.mean
    if min(control.count, observe.count) < LEAST:
        return Difference(mean, -math.inf, math.inf)
    parts = [one.squares / (one.count - 1) / one.count for one in (control, observe)]
    error = math.sqrt(sum(parts))
    if error == 0.0:
        return Difference(mean, mean, mean)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (one.count - 1) for part, one in zip(parts, (control, observe), strict=True)
    )
    half = student_975(freedom) * error
    return Difference(mean, mean - half, mean + half)


def student_975(freedom: float) -> float:
    """Quantile of Student's t by the expansion about the normal one (Abramowitz & Stegun 26.7.5); 0.8 % short at 2."""
    z = NORMAL_975
    terms = (
        z,
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


class CanaryReport:
    """The thread's side: what all windows so far say."""

    def __init__(self, windows: Windows) -> None:
        self.windows = dict.fromkeys(ARMS, 0)
        self._source = windows
        self._samples = {(measure, arm): Sample() for measure in MEASURES for arm in ARMS}

    def take(self) -> None:
        """Count the windows that are over by now; a line in the log now and then."""
        while self._source.done:
            window = self._source.done.popleft()
            self.windows[window.arm] += 1
            for measure, value in window.values().items():
                self._samples[measure, window.arm].add(value)
            if sum(self.windows.values()) % LINE_EVERY == 0:
                logger.info("kvhorizon canary: %s", self.line())

    def mean(self, measure: str, arm: Mode) -> float:
        """Of the windows; NaN before there is one."""
        sample = self._samples[measure, arm]
        return sample.mean if sample.count else math.nan

    def difference(self, measure: str) -> Difference:
        """Of control to vLLM alone."""
        return welch(*(self._samples[measure, arm] for arm in ARMS))

    def line(self) -> str:
        """All of it in one line."""
        control, observe = (self.windows[arm] for arm in ARMS)
        parts = []
        for measure in MEASURES:
            found = self.difference(measure)
            means = " against ".join(f"{self.mean(measure, arm):.4g}" for arm in ARMS)
            parts.append(f"{measure} {means} ({found.mean:+.3g}, 95 % from {found.low:+.3g} to {found.high:+.3g})")
        return f"{control} windows under control, {observe} of vLLM alone: " + "; ".join(parts)
