"""What-if: one trace, one engine, several policies; results as plain data that repeats byte for byte."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.models.forecast import check_spec
from kvhorizon.models.gpu import Gpu, preset, tpot_target_s
from kvhorizon.models.pool import pool_blocks
from kvhorizon.models.shape import ModelShape, builtin, from_config
from kvhorizon.models.step_time import step_cost
from kvhorizon.sim.alone import alone
from kvhorizon.sim.bound import hindsight_bound_s, over_bound
from kvhorizon.sim.in_process import InProcess
from kvhorizon.sim.metrics import summarize
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies import Policy, parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup, Solver
from kvhorizon.sim.trace import Trace
from kvhorizon.sim.traces import limit, read_trace
from kvhorizon.sim.workloads import synthesize
from kvhorizon.solver.greedy import Knob
from kvhorizon.state import EngineFacts

SCHEMA = 1
SYNTHETIC = "synthetic:"
SYNTHETIC_REQUESTS = 2000
BLOCK_SIZE = 16
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: arguments as a user gives them."""

    trace: str
    model: str = "llama-3.1-8b"
    gpu: str = "a100-40gb"
    tp: int = 1
    kv_blocks: int | None = None
    load: float | None = None
    limit: int | None = None
    seed: int = 0
    policies: tuple[str, ...] = ()
    forecast: str = "history"
    delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`results` is `results.json`; `outcomes` has one replay per policy, in the same order."""

    results: dict[str, Any]
    trace: Trace
    facts: EngineFacts
    outcomes: list[Outcome]


def load_trace(name: str, most: int | None, seed: int) -> Trace:
    """A trace file, or a synthetic workload; its first `most` requests. Raises InputError."""
    if most is not None and most < 1:
        raise InputError("limit", most, "must be >= 1")
    if name.startswith(SYNTHETIC):
        return synthesize(name.removeprefix(SYNTHETIC), most or SYNTHETIC_REQUESTS, seed)
    trace = read_trace(Path(name))
    return trace if most is None else limit(trace, most)


def load_model(name: str) -> ModelShape:
    """A built-in model, or a Hugging Face `config.json` by path."""
    return from_config(Path(name)) if name.endswith(".json") else builtin(name)


def engine_facts(question: Question, shape: ModelShape, gpu: Gpu) -> EngineFacts:
    """The engine that the question describes. Raises InputError where the weights do not fit."""
    if question.kv_blocks is not None and question.kv_blocks < 1:
        raise InputError("kv-blocks", question.kv_blocks, "must be >= 1")
    cost = step_cost(shape, gpu, question.tp)
    blocks = question.kv_blocks or pool_blocks(shape, gpu, question.tp, block_size=BLOCK_SIZE)
    return EngineFacts(
        total_blocks=blocks,
        block_size=BLOCK_SIZE,
        max_num_seqs=gpu.max_num_seqs,
        max_num_batched_tokens=gpu.max_num_batched_tokens,
        max_model_len=shape.max_position,
        cost=cost,
    )


def check_fits(trace: Trace, facts: EngineFacts) -> None:
    """Raises InputError if any request could never finish in the pool or exceeds the model's context."""
    tokens = trace.prompt_tokens + trace.output_tokens
    largest = int(np.argmax(tokens))
    most = min(facts.total_blocks * facts.block_size, facts.max_model_len)
    if tokens[largest] > most:
        raise InputError(
            f"request {largest}",
            int(tokens[largest]),
            f"prompt and output tokens must fit into the pool and context, <= {most}",
        )


def at_load(trace: Trace, facts: EngineFacts, load: float | None) -> Trace:
    """Arrivals rescaled to `load` times what first-come-first-served completes when all requests arrive at once."""
    last = float(trace.arrival_s[-1])
    if load is None or last <= 0.0:
        return trace
    together = dataclasses.replace(trace, arrival_s=np.zeros(len(trace)))
    span_s = replay(Setup(together, facts), parse_policy("fcfs")).makespan_s / load
    return dataclasses.replace(trace, arrival_s=trace.arrival_s * (span_s / last))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question whose every argument has been checked, ready to run."""

    question: Question
    policies: tuple[Policy, ...]
    setup: Setup
    tpot_target_s: float

    @property
    def planners(self) -> tuple[Knob, ...]:
        """The knobs of the solvers that policies ask for plans."""
        return tuple(dict.fromkeys(p.planner for p in self.policies if p.planner and p.program is None))


def prepare(question: Question) -> Prepared:
    """Check everything and load the trace, before anything runs for long. Raises InputError."""
    policies = tuple(parse_policy(name) for name in question.policies)
    check_spec(question.forecast)
    if question.delay_s is not None and not 0.0 <= question.delay_s < 60.0:
        raise InputError("delay-s", question.delay_s, "must be >= 0 and < 60")
    if question.load is not None and not 0.0 < question.load < 1000.0:
        raise InputError("load", question.load, "must be > 0 and < 1000")
    shape, gpu = load_model(question.model), preset(question.gpu)
    facts = engine_facts(question, shape, gpu)
    trace = load_trace(question.trace, question.limit, question.seed)
    check_fits(trace, facts)
    setup = Setup(at_load(trace, facts, question.load), facts, forecast=question.forecast, seed=question.seed)
    if question.delay_s is not None:
        setup = dataclasses.replace(setup, delay_s=question.delay_s)
    return Prepared(question, policies, setup, tpot_target_s(gpu, shape))


def what_if(prepared: Prepared, solvers: Mapping[Knob, Solver], progress: Progress | None = None) -> Answer:
    """Replay the trace under every policy; one whose solver is missing follows its greedy rule."""
    setup = prepared.setup
    prefill_s, service_s = alone(setup)
    bound_s = hindsight_bound_s(setup)
    outcomes, entries, timing = [], [], {}
    for policy in prepared.policies:
        started_s = time.perf_counter()
        outcome = _run(setup, policy, _solver_of(policy, solvers), progress)
        timing[policy.name] = round(time.perf_counter() - started_s, 3)
        columns = summarize(
            setup.trace,
            outcome,
            prefill_alone_s=prefill_s,
            service_alone_s=service_s,
            tpot_target_s=prepared.tpot_target_s,
        )
        outcomes.append(outcome)
        columns["over_bound"] = over_bound(setup, policy, outcome, bound_s)
        entries.append({"policy": policy.name, **columns})
    timing["total_s"] = round(sum(timing.values()), 3)
    return Answer(_results(prepared, bound_s, entries, timing), setup.trace, setup.facts, outcomes)


def _solver_of(policy: Policy, solvers: Mapping[Knob, Solver]) -> Solver | None:
    """Ablations plan in this process, since a service plans by its knob's own model."""
    if policy.planner is None:
        return None
    if policy.program is not None:
        return InProcess(policy.planner, program=policy.program)
    return solvers.get(policy.planner)


def _run(setup: Setup, policy: Policy, solver: Solver | None, progress: Progress | None) -> Outcome:
    name = policy.name
    return replay(setup, policy, solver, None if progress is None else lambda share: progress(name, share))


def _results(
    prepared: Prepared, bound_s: float | None, policies: Sequence[dict[str, Any]], timing: dict[str, float]
) -> dict[str, Any]:
    question, setup = prepared.question, prepared.setup
    trace, facts = setup.trace, setup.facts
    return {
        "schema": SCHEMA,
        "trace": {
            "name": trace.name,
            "requests": len(trace),
            "prompt_tokens": int(trace.prompt_tokens.sum()),
            "output_tokens": int(trace.output_tokens.sum()),
            "span_s": float(trace.arrival_s[-1]),
            "sha256": trace.sha256,
        },
        "engine": {
            "model": question.model,
            "gpu": question.gpu,
            "tp": question.tp,
            "kv_blocks": facts.total_blocks,
            "block_size": facts.block_size,
            "max_num_seqs": facts.max_num_seqs,
            "max_num_batched_tokens": facts.max_num_batched_tokens,
        },
        "load": question.load,
        "seed": question.seed,
        "forecast": question.forecast,
        "delay_s": setup.delay_s,
        "hindsight_bound": None if bound_s is None else {"e2e_mean_s": bound_s},
        "policies": list(policies),
        "timing": timing,
    }
