"""The sequential test: after each pair of windows, how much speaks against control.

A pair says of each measure whether control was worse by more than the margin. Which window of a pair is vLLM's own is
drawn by a fair coin that no traffic knows; so where control does no harm, "worse" comes with probability 1/2 at most,
whatever the traffic's tails, trends and correlations. A bettor who stakes the share f of its money on "worse" has

    M ← (M + renewal) · (1 + f)  if worse,   (M + renewal) · (1 − f)  if not

of which, without harm, the expectation grows by the renewals alone. By Doob's inequality M ever reaches C within n
pairs with probability (1 + n · renewal) / C at most, however often it is looked at (the Shiryaev–Roberts statistic;
Shafer & Vovk, Game-Theoretic Foundations for Probability and Finance, ch. 2). The renewal lets harm show that begins
late, after the first money has gone. The average over measures and stakes is again such a process, so that nothing is
paid for looking at several.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from kvhorizon.adapter.guardrail.meter import Seen

ENOUGH = 300.0  # C: chance of a false alarm (1 + pairs / 300) / 300 at most
RENEWAL = 1.0 / 300.0  # a pair; some 300 pairs are ten hours
STAKES = (0.6, 0.9)
SUSPECT = 2  # pairs in a row
ALIKE, ALIKE_REQUESTS = 1.5, 8  # requests in the engine at the beginning: by this factor and number at most
CHANCE = 3.0  # standard deviations of Poisson counts


class Margin(NamedTuple):
    """How much worse control may be: by a share of vLLM's own value, and by so much anyhow."""

    measure: str  # a property of `Seen`
    unit: str
    share: float
    floor: float
    more_is_worse: bool = True

    def exceeded(self, control: Seen, native: Seen) -> bool:
        """Whether control was worse than that in these windows."""
        ours, theirs = getattr(control, self.measure), getattr(native, self.measure)
        if self.more_is_worse:
            return bool(ours > theirs * (1.0 + self.share) + self.floor)
        return bool(ours < theirs * (1.0 - self.share) - self.floor)


MARGINS = (
    Margin("wait_s", "s", share=0.10, floor=0.05),
    Margin("token_s", "s", share=0.10, floor=0.0),
    Margin("tokens_per_s", "tokens/s", share=0.10, floor=0.0, more_is_worse=False),
    Margin("preemptions_per_s", "/s", share=0.10, floor=0.5),
)


def alike(one: Seen, other: Seen, present: tuple[int, int]) -> bool:
    """Whether two windows, with so many requests `present` as they began, bore an equal load.

    Arrivals may differ by chance, or because clients wait for answers: then by no more than what finished did.
    """
    few, many = sorted(present)
    if many > few * ALIKE + ALIKE_REQUESTS:
        return False
    came, ended = one.arrived - other.arrived, one.finished - other.finished
    chance = CHANCE * math.sqrt(one.arrived + other.arrived) + 1.0
    return min(abs(came), abs(came - ended)) <= chance


class Evidence:
    """Against control, since it was last trusted. `worse` counts pairs by measure; `pairs` all."""

    def __init__(self) -> None:
        self.pairs = 0
        self.worse = dict.fromkeys((margin.measure for margin in MARGINS), 0)
        self.in_a_row = dict(self.worse)
        self._money = {(measure, stake): 1.0 for measure in self.worse for stake in STAKES}

    def add(self, control: Seen, native: Seen) -> None:
        """One more pair."""
        self.pairs += 1
        for margin in MARGINS:
            measure, exceeded = margin.measure, margin.exceeded(control, native)
            self.worse[measure] += exceeded
            self.in_a_row[measure] = self.in_a_row[measure] + 1 if exceeded else 0
            for stake in STAKES:
                self._money[measure, stake] += RENEWAL
                self._money[measure, stake] *= 1.0 + stake if exceeded else 1.0 - stake

    @property
    def suspect(self) -> bool:
        """Whether to look closely: a bettor has gained, or the same measure was worse several times in a row."""
        return self.against > 1.0 or max(self.in_a_row.values()) >= SUSPECT

    @property
    def against(self) -> float:
        """Average of all; from `ENOUGH` on control is worse."""
        return sum(self._money.values()) / len(self._money)

    def of(self, measure: str) -> float:
        """What of it comes from one measure."""
        return sum(self._money[measure, stake] for stake in STAKES) / len(self._money)
