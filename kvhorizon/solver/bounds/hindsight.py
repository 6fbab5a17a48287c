"""Instances of the offline problem in unit steps, schedules of them, and what both mean.

N requests arrive at whole steps; each gives one output per step in which it runs, n's g-th output (from 0) needing
⌈(prompt + g) / block size⌉ blocks in that step, as vLLM counts: the token it emits has no KV yet. All blocks in use
must fit into the pool. The objective is total latency, Σ (end of the last step − arrival), in steps.

*Non-preemptive*: who has begun runs to its end. *Preemptive*: KV is dropped whenever it pays; to resume, a request
computes its whole context again, which takes ⌈context / token budget⌉ steps with all its blocks held. Either none of
them gives an output (`resume_emits=False`, the plain convention), or the last one does and the step that evicts is
lost instead, as in vLLM V1 (`resume_emits=True`); the first prefill always ends in an output. The second convention
is never dearer.

A schedule is the step of each output: `emitted[n][g]`, ascending in g. A gap within it is an eviction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.state import EngineFacts, StepCost

IntArray = NDArray[np.int64]
Schedule = list[IntArray]


@dataclass(frozen=True, slots=True)
class Instance:
    """Requests sorted by arrival, and the engine's limits. Raises InputError where one could never run."""

    arrival: IntArray  # (N,) steps
    prompt: IntArray  # (N,) tokens, >= 1
    output: IntArray  # (N,) tokens, >= 1
    pool_blocks: int
    block_size: int = 1
    token_budget: int = 4096  # per step; binds a single request's prefill only
    resume_emits: bool = False

    def __post_init__(self) -> None:
        if np.any(np.diff(self.arrival) < 0):
            raise InputError("arrival", self.arrival.tolist(), "must ascend")
        if min(self.prompt.min(), self.output.min()) < 1:
            raise InputError("tokens", int(min(self.prompt.min(), self.output.min())), "must be >= 1")
        if self.prefill_steps(int(self.prompt.max())) > 1:
            raise InputError("token_budget", self.token_budget, "must cover every prompt")
        largest = self.blocks(int((self.prompt + self.output).max()) - 1)
        if largest > self.pool_blocks:
            raise InputError("pool_blocks", self.pool_blocks, f"must hold the largest request, >= {largest}")

    def __len__(self) -> int:
        return len(self.arrival)

    def blocks(self, tokens: int) -> int:
        """Blocks of so many tokens."""
        return -(-tokens // self.block_size)

    def prefill_steps(self, tokens: int) -> int:
        """Steps that computing so many tokens takes."""
        return -(-tokens // self.token_budget)

    def silent_steps(self, n: int, output: int) -> int:
        """Steps without output, blocks held, before output `output` of n if it is the first after an eviction."""
        if output == 0:
            return 0
        return self.prefill_steps(int(self.prompt[n]) + output) - int(self.resume_emits)

    def facts(self, step_s: float = 1.0) -> EngineFacts:
        """The same engine for the simulator and the fluid bound: every step takes `step_s`."""
        return EngineFacts(
            total_blocks=self.pool_blocks,
            block_size=self.block_size,
            max_num_seqs=max(64, len(self)),
            max_num_batched_tokens=self.token_budget,
            max_model_len=self.pool_blocks * self.block_size,
            cost=StepCost(fixed_s=step_s, weights_s=0.0),
        )


def latency(instance: Instance, schedule: Schedule) -> int:
    """Total latency of a schedule [steps]."""
    return int(sum(emitted[-1] + 1 for emitted in schedule) - instance.arrival.sum())


def usage(instance: Instance, schedule: Schedule) -> IntArray:
    """Blocks in use in each step."""
    used = np.zeros(int(max(emitted[-1] for emitted in schedule)) + 1, np.int64)
    for n, emitted in enumerate(schedule):
        for g, step in enumerate(emitted):
            resumed = g > 0 and step != emitted[g - 1] + 1
            begin = step - (instance.silent_steps(n, g) if resumed else 0)
            used[begin : step + 1] += instance.blocks(int(instance.prompt[n]) + g)
    return used


def violations(instance: Instance, schedule: Schedule, preemptive: bool) -> list[str]:
    """What makes a schedule no schedule of the instance; empty if nothing does."""
    wrong = []
    for n, emitted in enumerate(schedule):
        if len(emitted) != instance.output[n]:
            wrong.append(f"request {n} gives {len(emitted)} outputs")
        if emitted[0] < instance.arrival[n]:
            wrong.append(f"request {n} runs before it arrives")
        for g in range(1, len(emitted)):
            lost = int(emitted[g] - emitted[g - 1]) - 1
            if lost != 0 and not preemptive:
                wrong.append(f"request {n} is evicted")
            if lost < 0 or 0 < lost < max(1, instance.silent_steps(n, g)):
                wrong.append(f"output {g} of request {n} comes too soon")
    over = np.flatnonzero(usage(instance, schedule) > instance.pool_blocks)
    return wrong + [f"step {step} overflows" for step in over]


def shortest_first(instance: Instance) -> Schedule:
    """MC-SF (Jaillet et al., arXiv 2502.07115), true lengths: non-preemptive, knows no request before arrival.

    At each step the waiting requests are taken in order of output while memory, were no other admitted, would
    suffice at every completion to come; the first that does not fit ends the step's admissions.
    """
    begin = np.full(len(instance), -1)
    used = np.zeros(int(instance.arrival[-1] + instance.output.sum()) + 1, np.int64)
    step = 0
    order = np.argsort(instance.output, kind="stable")
    while (begin < 0).any():
        for n in order[(begin[order] < 0) & (instance.arrival[order] <= step)]:
            length = int(instance.output[n])
            own = -(-(instance.prompt[n] + np.arange(length)) // instance.block_size)
            if np.any(used[step : step + length] + own > instance.pool_blocks):
                break
            used[step : step + length] += own
            begin[n] = step
        step += 1
    return [np.arange(begin[n], begin[n] + instance.output[n]) for n in range(len(instance))]
