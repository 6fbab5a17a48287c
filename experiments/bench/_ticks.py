"""An engine under sustained load, tick by tick, for the planner's benchmarks: drift, arrivals, finishes, preemptions.

No engine rule beyond memory and seats is simulated: what the plan admits now is admitted, what it evicts is evicted,
every running request grows by one token a step, and whoever outgrows the pool is preempted, last in first out. The
queue is refilled, so its length stays as it was.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.survival import lognormal_curve
from kvhorizon.state import EngineFacts, ForecastKind, Plan, Requests, Snapshot, StepCost

BLOCK = 16
STEP_S = 0.02
STEPS_PER_TICK = 5  # 100 ms
SIGMA = 0.6
FULL = 0.93  # share of the pool that is in use at the start
LIMIT = 8192
COST = StepCost(
    fixed_s=1e-3,
    weights_s=9.7e-3,
    linear_s_per_token=6.65e-5,
    attention_s_per_pair=2.9e-9,
    kv_read_s_per_token=8e-8,
    sequence_s=1e-5,
    flops_per_token=1.5e10,
    flops_per_pair=524288.0,
)
CURVES = np.stack([lognormal_curve(SIGMA), lognormal_curve(1.2)])  # (2, G)
NAMES = [field.name for field in fields(Requests)]
Table = dict[str, NDArray]  # columns of `Requests`, and `length`, the true output


class Ticks:
    """One engine with `running` requests at the start and always `waiting` in its queue; lengths of a `family`."""

    def __init__(self, seed: int, running: int, waiting: int, family: str) -> None:
        self._rng, self._family, self._waiting = np.random.default_rng(seed), family, waiting
        self._next, self.now_s, self.revision, self.preempted = 1, 1000.0, 0, 0
        drawn = self._draw(6 * running)
        seen = drawn["length"] / drawn["length"].sum()  # long ones are found running more often
        table = take(drawn, self._rng.choice(6 * running, running, replace=False, p=seen))
        table["generated_tokens"] = np.floor(self._rng.random(running) * table["length"]).astype(np.int64)
        table["arrival_s"] = self.now_s - STEP_S * table["generated_tokens"] - self._rng.exponential(4.0, running)
        self._run = computed(table)
        queue = self._draw(waiting)
        queue["arrival_s"] = np.sort(self.now_s - self._rng.exponential(4.0, waiting))
        self._queue = queue
        total = int(self._run["blocks_held"].sum() / FULL)
        self.facts = EngineFacts(total, BLOCK, int(1.3 * running), 2048, 16384 + LIMIT, COST)

    def snapshot(self) -> Snapshot:
        """The engine now."""
        self.revision += 1
        both = join(self._run, self._queue)
        free = self.facts.total_blocks - int(self._run["blocks_held"].sum())
        requests = Requests(**{name: both[name] for name in NAMES})
        count = len(self._run["handle"])
        return Snapshot(self.facts, self.revision, self.now_s, free, STEP_S, count, requests, CURVES, 1)

    def advance(self, plan: Plan) -> None:
        """Carry out the plan and let one tick pass."""
        out = np.isin(self._run["handle"], plan.evictions)
        into = np.isin(self._queue["handle"], plan.admissions[plan.admit_at_steps == 0.0])
        back, joined = preempted(take(self._run, out)), computed(take(self._queue, into))
        run = join(take(self._run, ~out), joined)
        run["generated_tokens"] = run["generated_tokens"] + STEPS_PER_TICK
        run = computed(take(run, run["generated_tokens"] < run["length"]))
        over = np.cumsum(run["blocks_held"]) > self.facts.total_blocks
        self.preempted += int(over.sum())
        queue = join(preempted(take(run, over)), back, take(self._queue, ~into))
        missing = self._waiting - len(queue["handle"])
        self._run = take(run, ~over)
        self.now_s += STEPS_PER_TICK * STEP_S
        self._queue = join(queue, self._draw(missing)) if missing > 0 else queue

    def _draw(self, count: int) -> Table:
        """New requests. `mixed`: three in ten reason at length after a short prompt; `chat`: none."""
        rng = self._rng
        reasons = rng.random(count) < (0.3 if self._family == "mixed" else 0.0)
        prompt = np.where(
            reasons, rng.lognormal(np.log(300) - 0.32, 0.8, count), rng.lognormal(np.log(1000) - 0.5, 1.0, count)
        )
        center = np.where(
            reasons, np.log(4000) - 0.4 + rng.normal(0, 0.65, count), np.log(250) - 0.6 + rng.normal(0, 0.92, count)
        )
        length = np.exp(center + SIGMA * rng.normal(size=count)).clip(1, LIMIT - 1)
        kind = rng.choice([ForecastKind.POINT, ForecastKind.CURVE, ForecastKind.NONE], count, p=[0.7, 0.2, 0.1])
        zeros = np.zeros(count, np.int64)
        handle = np.arange(self._next, self._next + count).astype(np.uint64)
        self._next += count
        return {
            "handle": handle,
            "arrival_s": np.full(count, self.now_s),
            "prompt_tokens": prompt.clip(8, 16000).astype(np.int64),
            "generated_tokens": zeros,
            "computed_tokens": zeros,
            "blocks_held": zeros,
            "output_limit_tokens": np.full(count, LIMIT),
            "preemptions": zeros,
            "cached_tokens": zeros,
            "shared_tokens": zeros,
            "weight": np.where(rng.random(count) < 0.2, 3.0, 1.0),
            "out_of_order": np.zeros(count, np.uint8),
            "forecast_kind": kind.astype(np.uint8),
            "forecast_scale": np.where(kind == ForecastKind.NONE, 0.0, np.exp(center)),
            "forecast_log_sigma": np.where(kind == ForecastKind.POINT, SIGMA, 0.0),
            "forecast_curve": zeros,
            "length": length,
        }


def take(table: Table, rows: NDArray) -> Table:
    """Those rows, by mask or index."""
    return {name: column[rows] for name, column in table.items()}


def join(*tables: Table) -> Table:
    """One below the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def computed(table: Table) -> Table:
    """As running requests hold their KV: all but the newest token."""
    context = table["prompt_tokens"] + table["generated_tokens"]
    return table | {"computed_tokens": context - 1, "blocks_held": -(-context // BLOCK)}


def preempted(table: Table) -> Table:
    """As they wait again, with nothing computed."""
    nothing = np.zeros(len(table["handle"]), np.int64)
    return table | {"computed_tokens": nothing, "blocks_held": nothing, "preemptions": table["preemptions"] + 1}
