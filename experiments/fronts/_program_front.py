"""The program's tuned front: settings of the step's rule beside a plan, and of the plan's model, drawn by a seed.

N has no budget of reordering (`means`), B a budget beside the plan (`balanced`, `strict`).
One order holds for plan and step. The shipped settings go by their policies' names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from experiments.fronts._front import changed, drawn
from kvhorizon.sim.policies.control import Plugin
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.solver.heuristic.params import PLANNED, Greedy, Knob, varied
from kvhorizon.solver.program.settings import Settings, settings_of

PER_FAMILY = 36
ALL_REQUESTS = 1e9  # mean outputs: whatever is planned is sure of its place
N_GRID = {
    "size_power": (0.5, 0.75, 1.0),
    "aging_s": (1.0, 4.0),
    "cap_share": (0.05, 0.10, 0.15),
    "sure_outputs": (0.5, 1.0, ALL_REQUESTS),
    "z": (1.0, 2.0, 3.0),
}
B_GRID = {
    "size_power": (0.25, 0.5, 1.0),
    "overtake_share": (0.1, 0.2, 0.4),
    "backfill_share": (0.2, 0.4, 0.6),
    "min_share": (0.02, 0.04),
    "cap_share": (0.05, 0.07, 0.10),
    "oldest_share": (0.02, 0.035, 0.05),
    "sure_outputs": (0.25, 0.5, 1.0),
    "z": (1.0, 2.0, 3.0),
}
BY_HAND: tuple[dict[str, float], ...] = (  # of B: decisions 008 and, `strict` as it was, 014; judged in any case
    {"size_power": 0.25, "sure_outputs": 0.5, "oldest_share": 0.05},
    {"size_power": 0.25, "sure_outputs": 0.5, "oldest_share": 0.05, "backfill_share": 0.5},
    {"oldest_share": 0.02, "backfill_share": 0.4},
)
MODEL_GRID = {"price_factor": (1.0, 2.0), "reserve_share": (0.02, 0.04)}


class Family(NamedTuple):
    """Settings that vary one rule."""

    name: str
    knob: Knob  # of the planner
    base: Greedy
    grid: dict[str, tuple[float, ...]]


FAMILIES = {
    family.name: family
    for family in (
        Family("N", Knob.MEANS, PLANNED[Knob.MEANS], N_GRID),
        Family("B", Knob.BALANCED, PLANNED[Knob.BALANCED], B_GRID),
    )
}


class ProgramSetting(NamedTuple):
    """One point of the program's front."""

    family: str
    rule: Greedy
    program: Settings
    shipped: str = ""  # the policy by whose name a user gets it
    reload: bool = False

    @property
    def parameters(self) -> dict[str, float | bool]:
        """What differs from the family's base."""
        family = FAMILIES[self.family]
        ours, model = dataclasses.asdict(self.program), dataclasses.asdict(settings_of(family.knob))
        return changed(self.rule, family.base) | {key: ours[key] for key in MODEL_GRID if ours[key] != model[key]}

    @property
    def name(self) -> str:
        inside = ",".join(f"{key}={value:g}" for key, value in self.parameters.items())
        return self.shipped or f"kvhorizon-{self.family}({inside})"

    @property
    def policy(self) -> Policy:
        return Policy(
            self.name, plugin=Plugin(True, self.rule), planner=FAMILIES[self.family].knob, program=self.program
        )


def _varied(family: Family, values: Mapping[str, float], shipped: str = "") -> ProgramSetting:
    """The base with these parameters of the rule, or of the model, changed."""
    rule = varied(family.base, **{k: v for k, v in values.items() if k not in MODEL_GRID})
    model: dict[str, float] = {k: v for k, v in values.items() if k in MODEL_GRID}
    model |= {"size_power": rule.order.size_power, "order_age_s": rule.order.aging_s}
    return ProgramSetting(
        family.name,
        rule,
        dataclasses.replace(settings_of(family.knob), **model),  # type: ignore[arg-type]
        shipped,
    )


def _of(knob: Knob, family: str, shipped: str) -> ProgramSetting:
    """A knob as it is shipped."""
    return _varied(FAMILIES[family], changed(PLANNED[knob], FAMILIES[family].base), shipped)


def judged_settings() -> list[ProgramSetting]:
    """Those that are judged whatever the tuning says: the shipped ones, and the ones tuned by hand."""
    shipped = [
        _of(Knob.BALANCED, "B", "kvhorizon"),
        _of(Knob.STRICT, "B", "kvhorizon/strict"),
        _of(Knob.MEANS, "N", "kvhorizon/means"),
    ]
    return [*shipped, *(_varied(FAMILIES["B"], values) for values in BY_HAND)]


def program_settings() -> list[ProgramSetting]:
    """All settings, those judged in any case first."""
    tried = [_varied(f, values) for f in FAMILIES.values() for values in drawn(f.grid | MODEL_GRID, PER_FAMILY)]
    return list(dict.fromkeys([*judged_settings(), *tried]))
