"""Baselines by name: which rules make up which scheduler, and where they come from.

Adding one: a function from the text after the colon to a `Baseline`, and its name in `BASELINES`; a rule that is not
there yet is a number in `codes` and a branch in `order`, `admission` or `victim`.

Output lengths come from the same forecast as ours; the largest output is the trace's limit for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from kvhorizon.errors import InputError
from kvhorizon.sim.policies.baselines import codes
from kvhorizon.sim.policies.baselines.rules import Rules
from kvhorizon.solver.heuristic.params import GREEDY, Knob, varied


class Baseline(NamedTuple):
    """Its rules, and the watermark that the engine runs with."""

    rules: Rules
    watermark_share: float = 0.0


VLLM = Rules()
VICTIMS = {
    "lifo": codes.LAST,
    "least-computed": codes.LEAST_COMPUTED,
    "fewest-output": codes.FEWEST_OUTPUT,
    "cost-aware": codes.COST_AWARE,
    "flops-per-mb": codes.FLOPS_PER_BLOCK,
    "remaining-time": codes.MOST_REMAINING,
    "ours": codes.OURS,
    "thrifty": codes.THRIFTY,
}
ABLATION_WATERMARK = 0.02
RESERVE_ALONE = varied(GREEDY[Knob.MEANS], size_scaled=False)  # cap 7 %, z 2: from seeds 100 and 101


def _plain(policy: str, option: str) -> None:
    if option:
        raise InputError("policy", policy, "takes nothing after its name")


def _number(policy: str, option: str, default: float, low: float, high: float) -> float:
    try:
        value = float(option) if option else default
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError("policy", policy, f"the part after ':' must be a number from {low:g} to {high:g}")
    return value


def _reserve_max(policy: str, option: str, knob: Knob) -> Baseline:
    """TensorRT-LLM, GUARANTEED_NO_EVICT: prompt and largest output of all fit; no request is ever preempted."""
    _plain(policy, option)
    return Baseline(VLLM._replace(admission=codes.RESERVE_MAX))


def _sglang(policy: str, option: str, knob: Knob) -> Baseline:
    """SGLang's new-token ratio, `--schedule-conservativeness` after the colon; retracted requests rejoin at the end.

    The default is SGLang's own, 1; of 0.3, 0.6 and 1 the first had the least mean latency (KV-bound cells, seed 100).
    In one engine with the others, so prefills are mixed with decodes, and those in flight count as running.
    """
    return Baseline(
        VLLM._replace(
            order=codes.RETRACTED_LAST,
            admission=codes.NEW_TOKEN_RATIO,
            victim=codes.FEWEST_OUTPUT,
            conservativeness=_number(policy, option, 1.0, 0.0, 10.0),
        )
    )


def _past_future(policy: str, option: str, knob: Knob) -> Baseline:
    """LightLLM's past-future scheduler (Gong et al., ASPLOS 2025): future peak of lengths drawn from what is known."""
    return Baseline(VLLM._replace(admission=codes.SAMPLED_PEAK, reserved=_number(policy, option, 0.03, 0.0, 0.9)))


def _sjf(policy: str, option: str, knob: Knob) -> Baseline:
    """Shortest predicted job first, admission and victims as the engine's."""
    _plain(policy, option)
    return Baseline(VLLM._replace(order=codes.SHORTEST_REMAINING))


def _srpt(policy: str, option: str, knob: Knob) -> Baseline:
    """Shortest predicted remaining first, evicting for it while less than a share of the output is done.

    TRAIL (Shahout et al., arXiv 2410.01035). The share, of the output predicted at arrival, is after the colon; 0.5 did
    best on our own mixed workloads (seeds 100 to 102). `srpt:inf` is SRPT without limit.
    """
    return Baseline(
        VLLM._replace(
            order=codes.SHORTEST_REMAINING,
            victim=codes.MOST_REMAINING,
            preempts=True,
            preemptible=_number(policy, option, 0.5, 0.0, math.inf),
        )
    )


def _mc_sf(policy: str, option: str, knob: Knob) -> Baseline:
    """MC-SF (Jaillet et al., arXiv 2502.07115): shortest first while memory fits at every predicted completion."""
    _plain(policy, option)
    return Baseline(VLLM._replace(order=codes.SHORTEST_REMAINING, admission=codes.PREDICTED_PEAK))


def _sorted_f(policy: str, option: str, knob: Knob) -> Baseline:
    """Sorted-F (Wang, Ye & Zhou, arXiv 2508.06133): batches of least F in turn, while their predicted peak fits."""
    _plain(policy, option)
    return Baseline(VLLM._replace(order=codes.BEST_BATCH, admission=codes.PREDICTED_PEAK))


def _a_min(policy: str, option: str, knob: Knob) -> Baseline:
    """A_min (Chen, Ye & Zhou, arXiv 2508.14544): lengths are taken for their lower bounds until they prove longer.

    Smallest bound first, admitted while the peak of the bounds fits; on overflow the smallest bounds are given up, each
    raised to what the request had given. There they begin anew; here, as in vLLM, they keep their output and prefill it
    again. The paper takes the intervals as given: here the lower end is a quantile of the forecast, after the colon; of
    0.1, 0.25, 0.5 and 0.75 the last had the least mean latency (KV-bound cells, seed 100).
    """
    quantile = _number(policy, option, 0.75, 0.0, 0.99)
    return Baseline(
        VLLM._replace(
            order=codes.LEAST_BOUND, admission=codes.BOUND_PEAK, victim=codes.SMALLEST_BOUND, quantile=quantile
        )
    )


def _ltr(policy: str, option: str, knob: Knob) -> Baseline:
    """vllm-ltr (Fu et al., NeurIPS 2024): rank of predicted length over waiting and running, starvation promotion.

    Threshold 200 steps and quantum 10 as in its scripts. It swaps to host memory; here, as in vLLM V1, KV is dropped.
    """
    if option not in ("", "preemptive"):
        raise InputError("policy", policy, "must be ltr or ltr:preemptive")
    return Baseline(
        VLLM._replace(
            order=codes.SHORTEST_TOTAL,
            victim=codes.LONGEST_TOTAL,
            preempts=option == "preemptive",
            preemptible=math.inf,
            starvation=200,
            quantum=10,
        )
    )


def _victim_rule(code: int) -> Callable[[str, str, Knob], Baseline]:
    def rule(policy: str, option: str, knob: Knob) -> Baseline:
        """vLLM with another victim."""
        _plain(policy, option)
        return Baseline(VLLM._replace(victim=code))

    return rule


def _victims(policy: str, option: str, knob: Knob) -> Baseline:
    """Ablation: vLLM with watermark 2 %, only the victim differs."""
    if option not in VICTIMS:
        raise InputError("policy", policy, f"victims:NAME needs one of {', '.join(sorted(VICTIMS))}")
    return Baseline(VLLM._replace(ours=knob.rule, victim=VICTIMS[option]), ABLATION_WATERMARK)


def _admission(policy: str, option: str, knob: Knob) -> Baseline:
    """Ablation: our reserve at the engine's own order and victims, as in the greedy or with a cap tuned for that."""
    if option not in ("ours", "reserve"):
        raise InputError("policy", policy, "must be admission:ours[/KNOB] or admission:reserve")
    ours = knob.rule if option == "ours" else RESERVE_ALONE
    return Baseline(VLLM._replace(ours=ours, admission=codes.CAPPED_RESERVE))


BASELINES: dict[str, Callable[[str, str, Knob], Baseline]] = {
    "reserve-max": _reserve_max,
    "sglang": _sglang,
    "past-future": _past_future,
    "sjf": _sjf,
    "srpt": _srpt,
    "mc-sf": _mc_sf,
    "sorted-f": _sorted_f,
    "a-min": _a_min,
    "ltr": _ltr,
    "lcf": _victim_rule(codes.LEAST_COMPUTED),
    "cost-aware": _victim_rule(codes.COST_AWARE),
    "flops-per-mb": _victim_rule(codes.FLOPS_PER_BLOCK),
    "victims": _victims,
    "admission": _admission,
}
