"""Goals that users state of a replay: `ttft_p99<=2s,goodput>=.95`."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from kvhorizon.errors import InputError

SPREADS = ("ttft", "tpot", "e2e", "long_ttft", "long_e2e")  # with _mean, _p50, _p90, _p99; in seconds
PLAIN = (
    "goodput",
    "slo_attainment",
    "throughput_tok_s",
    "preemption_frequency",
    "recompute_fraction",
    "gpu_utilization",
)
STATISTICS = ("mean", "p50", "p90", "p99")
PER_SECOND = {"": 1.0, "s": 1.0, "ms": 1000.0, "min": 1 / 60}
PER_ONE = {"": 1.0, "%": 100.0}
FORM = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*([a-z%]*)\s*")


class Goal(NamedTuple):
    """One bound on one figure."""

    name: str
    at_most: bool
    bound: float

    def met(self, entry: dict[str, Any]) -> bool:
        """Whether a policy's entry of `results.json` keeps to it; what was never measured does not."""
        value = figure(entry, self.name)
        return value is not None and (value <= self.bound if self.at_most else value >= self.bound)


def known(name: str) -> bool:
    head, _, statistic = name.rpartition("_")
    return name in PLAIN or (head in SPREADS and statistic in STATISTICS)


def figure(entry: dict[str, Any], name: str) -> float | None:
    """A figure of a policy's entry by its short name, e.g. `ttft_p99` [s]."""
    if name in PLAIN:
        return entry[name]  # type: ignore[no-any-return]
    head, _, statistic = name.rpartition("_")
    return entry[f"{head}_s"][statistic]  # type: ignore[no-any-return]


def parse_goals(text: str) -> tuple[Goal, ...]:
    """Goals with commas between them. Raises InputError."""
    return tuple(_parse(part) for part in text.split(","))


def _parse(part: str) -> Goal:
    match = FORM.fullmatch(part)
    if match is None or not known(match[1]):
        names = f"{', '.join(PLAIN)}, or one of {', '.join(SPREADS)} with _mean, _p50, _p90 or _p99"
        raise InputError("find", part, f"must be NAME<=VALUE or NAME>=VALUE with NAME one of {names}")
    name, sign, number, unit = match.groups()
    units = PER_ONE if name in PLAIN else PER_SECOND
    try:
        bound = float(number)
    except ValueError:
        raise InputError("find", part, "the value must be a number") from None
    if unit not in units:
        raise InputError("find", part, f"the unit must be one of {', '.join(u for u in units if u)}")
    return Goal(name, sign == "<=", bound / units[unit])
