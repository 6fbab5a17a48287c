"""Policies by name: what the engine is configured to, and what a plugin adds.

Adding one: a function from the text after the colon to a `Policy`, and its name in `POLICIES`. Other people's
schedulers are in `baselines.named`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kvhorizon.errors import InputError
from kvhorizon.sim.policies.baselines.named import BASELINES
from kvhorizon.sim.policies.control import UNSTEERED, Plugin
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.settings import Settings, settings_of

OURS = ("greedy", "edge-only", "no-evict", "point", "z=F")  # parts of the planned policy
MOST_Z = 10.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How one contender schedules."""

    name: str
    watermark_share: float = 0.0  # vLLM's --watermark: share of the pool kept free from admissions
    by_priority: bool = False  # vLLM's --scheduling-policy priority
    free_recompute: bool = False  # a reference in which recomputation costs nothing
    plugin: Plugin = UNSTEERED  # else the engine's own first-come-first-served
    planner: Knob | None = None  # the plugin follows plans of a solver service with this knob
    program: Settings | None = None  # an ablation: the planner's model where it is not the knob's own


def _knob(policy: str, text: str) -> Knob:
    try:
        return Knob(text or Knob.BALANCED)
    except InputError as error:
        raise InputError("policy", policy, f"the part after '/' {error.rule}") from None


def _fcfs(policy: str, option: str, knob: str) -> Policy:
    if option not in ("", "free-recompute") or knob:
        raise InputError("policy", policy, "must be fcfs or fcfs:free-recompute")
    return Policy(policy, free_recompute=option == "free-recompute")


def _priority(policy: str, option: str, knob: str) -> Policy:
    if option or knob:
        raise InputError("policy", policy, "takes nothing after its name")
    return Policy(policy, by_priority=True)


def _watermark(policy: str, option: str, knob: str) -> Policy:
    try:
        share = float(option)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 1.0 or knob:
        raise InputError("policy", policy, "watermark:F needs a share 0 <= F < 1 of the pool")
    return Policy(policy, watermark_share=share)


def _z(policy: str, text: str) -> float:
    try:
        z = float(text)
    except ValueError:
        z = -1.0
    if not 0.0 <= z <= MOST_Z:
        raise InputError("policy", policy, f"kvhorizon:z=F needs 0 <= F <= {MOST_Z:g}")
    return z


def _ablation(policy: str, option: str, knob: Knob) -> Settings:
    """The program's model with a part taken out."""
    settings = settings_of(knob)
    if option == "no-evict":
        return dataclasses.replace(settings, max_evictions=0)
    if option == "point":
        return dataclasses.replace(settings, z=0.0)
    if option.startswith("z="):
        return dataclasses.replace(settings, z=_z(policy, option.removeprefix("z=")))
    raise InputError("policy", policy, f"must be kvhorizon[:{' | :'.join(OURS)}][/KNOB]")


def _kvhorizon(policy: str, option: str, knob: str) -> Policy:
    chosen = _knob(policy, knob)
    if option == "greedy":
        return Policy(policy, plugin=Plugin(True, chosen.rule))
    beside = Plugin(True, chosen.beside)
    if option == "edge-only":
        return Policy(policy, plugin=beside)
    return Policy(policy, plugin=beside, planner=chosen, program=_ablation(policy, option, chosen) if option else None)


def _baseline(policy: str, option: str, knob: str) -> Policy:
    name = parts_of(policy).name
    if knob and option != "ours":
        raise InputError("policy", policy, "only parts of ours take a '/KNOB'")
    baseline = BASELINES[name](policy, option, _knob(policy, knob))
    return Policy(policy, watermark_share=baseline.watermark_share, plugin=Plugin(True, baseline=baseline.rules))


POLICIES: dict[str, Callable[[str, str, str], Policy]] = {
    "fcfs": _fcfs,
    "priority": _priority,
    "watermark": _watermark,
    "kvhorizon": _kvhorizon,
    **dict.fromkeys(BASELINES, _baseline),
}
DEFAULT_POLICIES = ("fcfs", "watermark:0.02", "kvhorizon:greedy", "kvhorizon", "fcfs:free-recompute")


class Parts(NamedTuple):
    """Of a policy's name, `NAME[:OPTION][/KNOB]`; empty where it is not there."""

    name: str
    option: str
    knob: str


def parts_of(text: str) -> Parts:
    """What a policy is made of."""
    head, _, knob = text.partition("/")
    name, _, option = head.partition(":")
    return Parts(name, option, knob)


def parse_policy(text: str) -> Policy:
    """`NAME[:OPTION][/KNOB]` to a policy. Raises InputError naming the known ones."""
    name, option, knob = parts_of(text)
    if name not in POLICIES:
        raise InputError("policy", text, f"must begin with one of {', '.join(sorted(POLICIES))}")
    return POLICIES[name](text, option, knob)
