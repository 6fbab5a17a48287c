"""Who decides now: control, or vLLM alone for a window of a comparison, or for long since control did harm.

Windows follow each other on the clock of the steps. Two neighbours of different arms, in random order, are a pair;
between pairs control decides. Pairs begin only while something waits or is evicted. An idle engine or a mode that was
changed from outside spoils the window at work, and its pair.
"""

from __future__ import annotations

import logging
from collections import Counter

from kvhorizon.adapter.guardrail.evidence import ENOUGH, MARGINS, Evidence, alike
from kvhorizon.adapter.guardrail.meter import Meter, Seen
from kvhorizon.adapter.guardrail.schedule import LONGEST_BACK_S, SETTLED, Pace, back_off, coin, gap
from kvhorizon.adapter.guardrail.verdict import Verdict
from kvhorizon.adapter.modes import Mode

logger = logging.getLogger(__name__)

LATE = 0.25  # of a window: a step that comes later than this after its end finds the engine idle, or it hung


class Guardrail:
    """Of one scheduler. `native` is whether vLLM decides alone; only the step's thread calls `step`."""

    def __init__(self, meter: Meter, seed: int = 0) -> None:
        self.native = False
        self.stepped_back = False
        self.switch_offs = 0
        self.pairs: Counter[str] = Counter(counted=0, unequal=0, spoilt=0, idle=0)
        self.evidence, self.verdict = Evidence(), Verdict()
        self.highest = 0.0  # evidence against control so far
        self.step_s = 0.0  # how long a step takes at the moment
        self.seed = seed  # of the coin
        self._meter = meter
        self._pace = Pace()
        self._length_s = self._pace.window_s(0.0)
        self._next_s: float | None = None  # end of this window, or of the part of it that does not count
        self._begun: Seen | None = None  # once the window counts
        self._spoilt = False
        self._first: tuple[Seen, int] | None = None  # of the pair at work; with those present as it began
        self._in_pair = False
        self._drawn = 0  # pairs
        self._gap = 0  # windows of control until the next pair
        self._back_s = 0.0  # how long vLLM decided alone, the last time
        self._trusted_s = 0.0  # since when control is tried

    @property
    def native_share(self) -> float:
        """Of the time, in which vLLM decides alone while something waits."""
        return 1.0 if self.stepped_back else 1.0 / (2.0 + gap(self.evidence.pairs, self.evidence.suspect))

    def step(self, now_s: float, mode: Mode) -> None:
        """A step begins; the one before it was in `mode`."""
        self._meter.step(now_s)
        if mode is not (Mode.OBSERVE if self.native else Mode.CONTROL):
            self._spoilt = True
        if self._next_s is None or now_s >= self._next_s:
            self._turn(now_s)

    def line(self) -> str:
        """What it does, and what the pairs so far say of each measure."""
        state = "stepped back, vLLM decides alone" if self.stepped_back else "watching"
        counted, told = self.evidence.pairs, self.verdict.lines(self.evidence)
        return (
            f"{state}; evidence against control {self.evidence.against:.3g} of {ENOUGH:g}\n{told}" if counted else state
        )

    def rest(self) -> None:
        """Nothing is known of this step: what is at work is dropped, and a step back stays one."""
        if not self.stepped_back:
            self.native, self._in_pair, self._next_s = False, False, None

    def _turn(self, now_s: float) -> None:
        """A window begins to count, or is over."""
        if self.stepped_back:
            self._try_again(now_s)
        elif self._next_s is None:
            self._begin(now_s, native=False)
        elif self._begun is None:
            self._spoilt |= now_s > self._next_s + LATE * self._length_s
            self._begun = self._meter.read(now_s)
            self._next_s = now_s + (1.0 - SETTLED) * self._length_s
        else:
            late = now_s > self._next_s + LATE * self._length_s
            present = self._begun.arrived - self._begun.finished
            seen = None if self._spoilt or late else self._meter.read(now_s).since(self._begun)
            self._over(seen, present, now_s)

    def _begin(self, now_s: float, native: bool) -> None:
        self.native, self._begun, self._spoilt = native, None, False
        self._next_s = now_s + SETTLED * self._length_s

    def _over(self, seen: Seen | None, present: int, now_s: float) -> None:
        """What comes after a window; `seen` is None where it was spoilt."""
        if seen is not None and self.native:
            self._pace.see(seen)
        if not self._in_pair:
            self._gap -= 1
            if seen is not None and seen.binds and self._gap <= 0:
                self._begin_pair(now_s)
            else:
                self._begin(now_s, native=False)
        elif seen is None:
            self.pairs["spoilt"] += 1
            self._end_pair(now_s, binds=False)
        elif self._first is None:
            self._first = seen, present
            self._begin(now_s, native=not self.native)
        else:
            self._judge(self._first, (seen, present), now_s)

    def _begin_pair(self, now_s: float) -> None:
        self._in_pair, self._first = True, None
        self._length_s = self._pace.window_s(self.step_s)
        self._drawn += 1
        self._begin(now_s, native=coin(self.seed, self._drawn))

    def _end_pair(self, now_s: float, binds: bool) -> None:
        """Control decides, unless the next pair follows at once."""
        self._in_pair = False
        self._gap = gap(self.evidence.pairs, self.evidence.suspect)
        if binds and self._gap == 0:
            self._begin_pair(now_s)
        else:
            self._begin(now_s, native=False)

    def _judge(self, first: tuple[Seen, int], second: tuple[Seen, int], now_s: float) -> None:
        """Both windows of a pair are over; the second is of the arm in force."""
        (control, ours), (native, theirs) = (first, second) if self.native else (second, first)
        binds = control.binds or native.binds
        if not binds:
            self.pairs["idle"] += 1
        elif not alike(control, native, (ours, theirs)):
            self.pairs["unequal"] += 1
        else:
            self.pairs["counted"] += 1
            self.evidence.add(control, native)
            self.verdict.add(control, native)
            self.highest = max(self.highest, self.evidence.against)
            if self.evidence.against >= ENOUGH:
                self._step_back(now_s)
                return
        self._end_pair(now_s, binds)

    def _step_back(self, now_s: float) -> None:
        """Control was worse: vLLM decides alone, each time for longer."""
        if now_s - self._trusted_s >= LONGEST_BACK_S:
            self._back_s = 0.0
        self._back_s = back_off(self._back_s)
        self.native = self.stepped_back = True
        self._in_pair = False
        self._next_s = now_s + self._back_s
        self.switch_offs += 1
        worst = max((margin.measure for margin in MARGINS), key=self.evidence.of)
        logger.warning(
            "kvhorizon guardrail: control did worse than vLLM alone: %s; vLLM decides alone for %.0f minutes",
            self.verdict.line(self.evidence, worst),
            self._back_s / 60.0,
        )

    def _try_again(self, now_s: float) -> None:
        """Control is trusted anew, and watched as closely as at first."""
        self.stepped_back = False
        self.evidence, self.verdict = Evidence(), Verdict()
        self._trusted_s, self._gap = now_s, 0
        logger.warning("kvhorizon guardrail: control is tried again after %.0f minutes", self._back_s / 60.0)
        self._begin(now_s, native=False)
