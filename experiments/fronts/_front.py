"""The greedy's tuned front: settings of rules N′ and B drawn by a seed, with and without reload.

A setting is a `Greedy` with a name that tells its parameters; the draw is the grid's, shuffled, and repeats. N′ is the
rule without a budget of reordering (`means`), B the one with the budget (`balanced`, `strict`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kvhorizon.sim.policies.control import Plugin
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.solver.heuristic.params import GREEDY, Greedy, Knob, parameters, varied

SEED = 100
PER_RULE = 117  # settings drawn per rule, each with and without reload: 468 besides the shipped ones
N_GRID = {
    "cap_share": (0.02, 0.03, 0.05, 0.07, 0.10),
    "size_scaled": (False, True),
    "z": (1.0, 2.0, 3.0),
    "aging_s": (0.5, 2.0, 8.0, 30.0),
    "aging_share": (0.05, 0.2, 0.8),
    "tries": (4, 16),
}
B_GRID = {
    "cap_share": (0.03, 0.05, 0.07),
    "oldest_share": (0.02, 0.035, 0.05),
    "z": (1.0, 2.0),
    "tries": (4, 8),
    "overtake_share": (0.05, 0.1, 0.2, 0.4, 0.7),
    "backfill_share": (0.2, 0.4, 0.6, 0.8),
    "out_of_order_factor": (1.0, 2.0),
    "protect_share": (0.0, 0.5),
}


SHIPPED = {  # what a grid's values are set in
    "N": GREEDY[Knob.MEANS],
    "B": GREEDY[Knob.BALANCED],
}


def kind_of(rule: Greedy) -> str:
    """The name that the rule goes by."""
    return "B" if rule.budgeted else "N"


def changed(rule: Greedy, base: Greedy) -> dict[str, float | bool]:
    """What differs from `base`."""
    given = parameters(base)
    return {key: value for key, value in parameters(rule).items() if value != given[key]}


def drawn(grid: Mapping[str, Sequence[float]], most: int) -> list[dict[str, float]]:
    """At most so many points of the grid, shuffled by the seed."""
    points = list(itertools.product(*grid.values()))
    chosen = np.random.default_rng(SEED).permutation(len(points))[:most]
    return [dict(zip(grid, points[i], strict=True)) for i in chosen]


class Setting(NamedTuple):
    """One point of the greedy's front."""

    rule: Greedy
    reload: bool

    @property
    def parameters(self) -> dict[str, float | bool]:
        """What differs from the rule's shipped form."""
        return changed(self.rule, SHIPPED[kind_of(self.rule)])

    @property
    def name(self) -> str:
        rule = kind_of(self.rule)
        inside = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{rule}({inside})" + ("+reload" if self.reload else "")

    @property
    def policy(self) -> Policy:
        return Policy(self.name, plugin=Plugin(True, self.rule))

    @property
    def shipped(self) -> bool:
        """Whether it is what a user gets by a name."""
        return not self.parameters or self.rule in GREEDY.values()


def settings() -> list[Setting]:
    """All settings, the shipped ones first."""
    grids = {"N": N_GRID, "B": B_GRID}
    tried = [varied(SHIPPED[kind], **values) for kind, grid in grids.items() for values in drawn(grid, PER_RULE)]
    rules = [*GREEDY.values(), *tried]
    return [Setting(rule, reload) for rule in dict.fromkeys(rules) for reload in (False, True)]


def not_dominated(points: Iterable[tuple[float, ...]]) -> list[int]:
    """Places of the points that no other equals or beats in every coordinate and beats in one; the least is best."""
    array = np.array(list(points))
    kept = []
    for i, point in enumerate(array):
        others = (array <= point).all(axis=1) & (array < point).any(axis=1)
        if not others.any():
            kept.append(i)
    return kept
