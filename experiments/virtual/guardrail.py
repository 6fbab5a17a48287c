"""Does the guardrail stop rules that do harm, soon, and never those that do none?

vLLM's scheduler with the plugin under a virtual clock (`_guardrail_drive`): steps take what the step-time model says of
a 32B model on an H100, whose pool holds some twenty requests of 4 s. Bad rules are planted in place of the plugin's
own (`_guardrail_rules`), at loads at which they do harm: that is measured first, with the guardrail off. Then the
plugin's own rules, for ten hours of four loads, all on the same scheduler. Needs vLLM (0.32).
"""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from experiments.common._harness import Options, main, target
from experiments.virtual._guardrail_drive import Load, VirtualEngine
from experiments.virtual._guardrail_rules import BAD

SEED = 0
SEEDS, QUICK_SEEDS = 3, 1  # of each bad rule at each load
HOURS, QUICK_HOURS = 10.0, 0.2  # of the plugin's own rules, over all loads
HARM = 1.25  # wait or time per token by this factor, or throughput by its inverse: then a rule counts as bad
EVICTIONS_HARM = 4.0  # by this factor
HARM_S = 300.0  # for which it is looked at
PATIENCE_S = 1800.0  # after which a rule counts as never stopped
TURNS_S, QUICK_TURNS_S = 900.0, 60.0  # when the plugin's own rule turns bad
BACK_OFF_S = 5400.0

WORKERS = 4  # processes; each run is a virtual engine of its own

BOUND = {
    "closed": Load("closed", clients=50),
    "full": Load("full", lambda _: 4.0, 4.0),
    "light": Load("light", lambda _: 2.5, 2.5),
}
OWN = {
    "stationary": Load("stationary", lambda _: 4.2, 4.2),
    "day_and_night": Load("day_and_night", lambda now_s: 3.0 - 2.2 * math.cos(math.pi * now_s / 900.0), 5.2),
    "bursts": Load("bursts", lambda now_s: 9.0 if now_s % 60.0 < 20.0 else 1.5, 9.0),
    "gaps": Load("gaps", lambda now_s: 5.0 if now_s % 420.0 < 240.0 else 0.0, 5.0),
}


class Means(NamedTuple):
    """Of one run without a guardrail."""

    wait_s: float
    token_s: float
    tokens_per_s: float
    preemptions_per_s: float

    def ratios(self, plain: Means) -> dict[str, float]:
        """To vLLM alone."""
        return {name: value / max(was, 0.01) for name, value, was in zip(self._fields, self, plain, strict=True)}

    def harmed(self, plain: Means) -> bool:
        """Whether a rule did harm, compared with vLLM alone."""
        return (
            self.wait_s > HARM * plain.wait_s + 1.0
            or self.token_s > HARM * plain.token_s
            or self.tokens_per_s < plain.tokens_per_s / HARM
            or self.preemptions_per_s > EVICTIONS_HARM * plain.preemptions_per_s + 1.0
        )


def measure(options: Options) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Hours of the plugin's own rules and, beside them, bad rules and those that turn bad."""
    logging.getLogger("kvhorizon").setLevel(logging.ERROR)
    hours = (QUICK_HOURS if options.quick else HOURS) / len(OWN)
    turns_s = QUICK_TURNS_S if options.quick else TURNS_S
    seeds = range(SEED, SEED + (QUICK_SEEDS if options.quick else SEEDS))
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        plain = {load: pool.submit(_without, load, None) for load in BOUND}
        bad = {(rule, load): pool.submit(_without, load, rule) for rule in BAD for load in BOUND}
        own = {load: pool.submit(_own_rules, load, hours) for load in OWN}
        harm = {case: one.result().ratios(plain[case[1]].result()) for case, one in bad.items()}
        cases = [case for case, one in bad.items() if one.result().harmed(plain[case[1]].result())]
        stopped = {case: [pool.submit(_stopped_s, *case, seed) for seed in seeds] for case in cases}
        turned = {case: pool.submit(_stopped_s, *case, SEED, turns_s) for case in cases if case[1] == "full"}
        back_off = pool.submit(_back_off, QUICK_TURNS_S if options.quick else BACK_OFF_S)
        figures = {
            "ratios_without_guardrail": {" ".join(case): ratios for case, ratios in harm.items()},
            "stopped_s": {" ".join(case): [one.result() for one in runs] for case, runs in stopped.items()},
            "turned_bad_stopped_s": {" ".join(case): one.result() for case, one in turned.items()},
            "back_off": back_off.result(),
            "own_rules": {load: one.result() for load, one in own.items()},
            "virtual_hours": hours * len(OWN),
        }
    targets = {
        "bad_rule_stopped_s": target(max(max(times) for times in figures["stopped_s"].values()), "<=120"),
        "false_alarms": target(sum(run["false_alarms"] for run in figures["own_rules"].values()), "<=0"),
    }
    return figures, targets


def _without(load: str, rule: str | None) -> Means:
    """A bad rule, or vLLM alone, with the guardrail off."""
    engine = VirtualEngine(BOUND[load], SEED, {"guardrail": False, "mode": "control" if rule else "off"})
    if rule is not None:
        BAD[rule](engine.plugin)
    engine.run(lambda engine: engine.now_s >= HARM_S)
    seen = engine.seen()
    engine.close()
    return Means(seen.wait_s, seen.token_s, seen.tokens_per_s, seen.preemptions_per_s)


def _stopped_s(rule: str, load: str, seed: int, from_s: float = 0.0) -> float:
    """Seconds from planting (by default from the first request on) until the guardrail stepped back."""
    engine = VirtualEngine(BOUND[load], seed, {})
    guardrail = engine.plugin.switch.guardrail
    engine.run(lambda engine: engine.now_s >= from_s)
    BAD[rule](engine.plugin)
    begun_s = engine.now_s
    engine.run(lambda engine: guardrail.stepped_back or engine.now_s >= begun_s + PATIENCE_S)
    engine.close()
    return engine.now_s - begun_s if guardrail.switch_offs else math.inf


def _back_off(seconds: float) -> dict[str, Any]:
    """A rule that stays bad: how often it is tried, and for what share of the steps it decides."""
    engine = VirtualEngine(BOUND["light"], SEED, {})
    BAD["few_at_a_time"](engine.plugin)
    engine.run(lambda engine: engine.now_s >= seconds)
    ladder, guardrail = engine.plugin.ladder, engine.plugin.switch.guardrail
    engine.close()
    share = 1.0 - ladder["native"] / ladder.total()
    return {"hours": seconds / 3600.0, "switch_offs": guardrail.switch_offs, "control_share": share}


def _own_rules(load: str, hours: float) -> dict[str, Any]:
    """The plugin's own rules, beside the guardrail."""
    engine = VirtualEngine(OWN[load], SEED, {})
    engine.run(lambda engine: engine.now_s >= hours * 3600.0)
    ladder, guardrail = engine.plugin.ladder, engine.plugin.switch.guardrail
    engine.close()
    return {
        "hours": hours,
        "steps": engine.steps,
        "requests": engine.ended,
        "native_share": ladder["native"] / ladder.total(),
        "pairs": dict(guardrail.pairs),
        "worse": dict(guardrail.evidence.worse),
        "highest_evidence": guardrail.highest,
        "false_alarms": guardrail.switch_offs,
    }


if __name__ == "__main__":
    main("guardrail", SEED, measure)
