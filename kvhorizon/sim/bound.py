"""How low the mean latency of a trace can be on its engine, whoever schedules and whatever is known beforehand."""

from __future__ import annotations

import numpy as np

from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.bounds.fluid import fluid_bound


def hindsight_bound_s(setup: Setup) -> float | None:
    """Lower bound of the mean end-to-end latency [s]; None where none is proven.

    That is with prefix caching or KV reload, which do work away, and in a closed loop, whose arrivals depend on the
    policy.
    """
    if setup.prefix_caching or setup.reload_s_per_token > 0.0 or setup.concurrency > 0:
        return None
    trace = setup.trace
    return fluid_bound(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, setup.facts).total_s / len(trace)


def over_bound(setup: Setup, policy: Policy, outcome: Outcome, bound_s: float | None) -> float | None:
    """Mean latency over the bound, >= 1; None where recomputation is free or a request never finished."""
    finished = np.isfinite(outcome.finish_s).all()
    if bound_s is None or policy.free_recompute or not finished:
        return None
    return float((outcome.finish_s - setup.trace.arrival_s).mean()) / bound_s
