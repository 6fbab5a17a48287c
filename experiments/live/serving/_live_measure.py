"""What a load meant to its clients and to the engine, under the simulator's names; and the same load, simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.live.serving._live_load import SIGMA, Ask, Told, lost
from experiments.live.serving._live_server import Served
from kvhorizon.models.performance.gpu import preset
from kvhorizon.models.performance.shape import from_config
from kvhorizon.models.performance.step_time import step_cost
from kvhorizon.sim.fitted_clock import not_negative
from kvhorizon.sim.metrics import spread
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.state import EngineFacts, StepCost

Row = dict[str, Any]
FloatArray = NDArray[np.float64]
COUNTS = ("preemptions", "recompute_tokens", "wasted_flops", "useful_flops", "busy_s", "errors")
BEGIN, WALL, OWN = 4, 5, 6  # columns of a step: when it began, seconds on the wall, and as its thread saw them
_BACK_TO_BACK_S = 0.02  # a step that begins so soon after the last one ended did not wait for work


def measured(load: Sequence[Ask], told: Sequence[Told], before: Row, after: Row, cpu_s: float) -> Row:
    """One load on a server: the probe's reports before and after it, and what the clients saw."""
    gained = {name: after[name] - before.get(name, 0) for name in COUNTS}
    first = np.array([one.first_s - one.sent_s for one in told])
    whole = np.array([one.last_s - one.sent_s for one in told])
    output = np.array([ask.output_tokens for ask in load])
    last_s = max(one.last_s for one in told)
    steps = np.array(after["steps"][len(before.get("steps", [])) :])
    return {
        "lost_requests": lost(load, told),
        **_row(load, gained, first, whole, (whole - first)[output > 1] / (output - 1)[output > 1], last_s),
        "steps": len(steps),
        "longest_step_s": float(steps[:, OWN].max()),
        "engine_s": float(steps[:, OWN].sum()),
        "work": [len(steps), *steps[:, :BEGIN].sum(axis=0).tolist()],
        "cpu_s": cpu_s,
        "plugin_errors": gained["errors"],
        "ladder": _gain(before, after, "ladder"),
        "plans": _gain(before, after, "plans"),
    }


def _gain(before: Row, after: Row, name: str) -> dict[str, int]:
    return {key: count - before.get(name, {}).get(key, 0) for key, count in after[name].items()}


def _row(load: Sequence[Ask], counts: Row, ttft: FloatArray, e2e: FloatArray, tpot: FloatArray, last_s: float) -> Row:
    """Names as `sim.metrics.summarize` has them; `gpu_utilization` is the engine's busy time on a CPU."""
    tokens = sum(len(ask.prompt) + ask.output_tokens for ask in load)
    spent = counts["useful_flops"] + counts["wasted_flops"]
    return {
        "requests": len(load),
        "preemptions": counts["preemptions"],
        "preemption_frequency": counts["preemptions"] / len(load),
        "recompute_tokens": counts["recompute_tokens"],
        "wasted_flops": counts["wasted_flops"],
        "recompute_fraction": counts["wasted_flops"] / spent if spent else 0.0,
        "gpu_utilization": counts["busy_s"] / last_s,
        "throughput_tok_s": tokens / last_s,
        "makespan_s": last_s,
        "ttft_s": spread(ttft),
        "tpot_s": spread(tpot),
        "e2e_s": spread(e2e),
    }


def fit_cost(steps: Sequence[Sequence[float]], config: dict[str, Any]) -> StepCost:
    """Step time of the engine as its own steps show it, by least squares with coefficients >= 0.

    A step counts until the next one begins or, with two in flight, ends after the one before it, where it waited for no
    work. FLOPs are those of the model that `config` describes.
    """
    rows = np.array(steps)
    seconds = _step_s(rows)
    design = np.column_stack([np.ones(len(rows)), rows[:, :4]])
    fixed, linear, pair, read, sequence = not_negative(design, seconds).tolist()
    shape = from_config(config, "live")
    return step_cost(shape, preset("h100-80gb"))._replace(
        fixed_s=fixed,
        weights_s=0.0,
        linear_s_per_token=linear,
        attention_s_per_pair=pair,
        kv_read_s_per_token=read,
        sequence_s=sequence,
    )


def work_s(work: Sequence[float], cost: StepCost) -> float:
    """What steps take of such an engine by their work alone: their number, tokens, pairs, KV tokens read, sequences."""
    price = cost.fixed_s, cost.linear_s_per_token, cost.attention_s_per_pair, cost.kv_read_s_per_token, cost.sequence_s
    return float(np.dot(work, price))


def _step_s(rows: FloatArray) -> FloatArray:
    """(n,) Seconds from step to step of (n, …) steps in their order, or a step's own where it was not preceded."""
    begin_s, end_s = rows[:, BEGIN], rows[:, BEGIN] + rows[:, WALL]
    in_flight = np.append(False, begin_s[1:] < end_s[:-1])  # begun before the last one had ended
    gap_s = np.append(begin_s[1:] - end_s[:-1], np.inf)
    alone = rows[:, WALL] + np.where((gap_s >= 0.0) & (gap_s < _BACK_TO_BACK_S), gap_s, 0.0)
    return np.where(in_flight, np.append(0.0, np.diff(end_s)), alone)


def simulated(load: Sequence[Ask], served: Served, cost: StepCost, policy: str, seed: int) -> Row:
    """The same load and pool in the simulator, on an engine as fast as the measured one."""
    trace = Trace(
        "live",
        "",
        np.array([ask.arrival_s for ask in load]),
        np.array([len(ask.prompt) for ask in load]),
        np.array([ask.output_tokens for ask in load]),
        np.zeros(len(load), np.int64),
    )
    facts = EngineFacts(
        served.blocks - 1, served.block_size, served.seats, served.batched, served.max_len, cost, engine_epoch=1
    )
    setup = Setup(trace, facts, f"noisy:{SIGMA}", seed, max_tokens=load[0].max_tokens)
    chosen = parse_policy(policy)
    return _as_row(load, trace, replay(setup, chosen, InProcess(chosen.planner) if chosen.planner else None))


def _as_row(load: Sequence[Ask], trace: Trace, outcome: Outcome) -> Row:
    wasted = float(outcome.wasted_flops.sum())
    counts = {
        "preemptions": int(outcome.preemptions.sum()),
        "recompute_tokens": int(outcome.recompute_tokens.sum()),
        "wasted_flops": wasted,
        "useful_flops": outcome.flops - wasted,
        "busy_s": outcome.busy_s,
    }
    several = trace.output_tokens > 1
    tpot = (outcome.finish_s - outcome.first_token_s)[several] / (trace.output_tokens[several] - 1)
    ttft, e2e = outcome.first_token_s - trace.arrival_s, outcome.finish_s - trace.arrival_s
    return _row(load, counts, ttft, e2e, tpot, outcome.makespan_s)
