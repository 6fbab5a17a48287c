"""What-if: one trace, one engine, several policies; results as plain data that repeats byte for byte."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.of_a_trace import check_spec
from kvhorizon.models.performance.kv_offload import reload_s_per_token
from kvhorizon.models.slo.classes import Classes, read_classes
from kvhorizon.recording.read import Recording
from kvhorizon.sim.bound import hindsight_bound_s, over_bound
from kvhorizon.sim.engine.failure import Failure
from kvhorizon.sim.fleet.engines import Fleet, play
from kvhorizon.sim.fleet.failure_cost import failure_cost
from kvhorizon.sim.isolated import alone
from kvhorizon.sim.metrics import summarize
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import Policy, parse_policy
from kvhorizon.sim.prefix_caching import PrefixCaching, recorded_setting, resolve
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup, Solver
from kvhorizon.sim.workload.mixed import mixed
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.state import EngineFacts
from kvhorizon.whatif.engine_spec import EngineSpec, engine_spec
from kvhorizon.whatif.self_check import Check, check, clock_of, seen_of
from kvhorizon.whatif.trace_spec import at_load, capped, check_fits, load_trace, recording_of, trace_of

SCHEMA = 1
DOWN_FOR_S = 60.0
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: arguments as a user gives them."""

    trace: str
    model: str | None = None  # None: the recording's own, else the default
    gpu: str | None = None
    tp: int = 1
    kv_blocks: int | None = None
    load: float | None = None
    limit: int | None = None
    seed: int = 0
    policies: tuple[str, ...] = ()
    forecast: str = "history"
    delay_s: float | None = None
    replicas: int = 1
    router: str = "round-robin"
    patience_s: float | None = None  # after which a client without a token gives up
    retries: int = 0  # how often it then asks again
    prefix_caching: bool | None = None  # None: as vLLM does, where the trace says what is shared
    classes: str = ""  # of service: JSON text, or a .json or .toml file
    max_output_tokens: int | None = None  # outputs are cut there, and forecasts know it
    fail_at_s: float | None = None  # when the engine (of several, the first) loses all KV
    down_for_s: float = DOWN_FOR_S
    offload_gb_s: float = 0.0  # evicted KV comes back from host memory at this speed; 0: it is computed again
    mix: str | None = None  # another trace, of which a share of the requests are
    mix_share: float = 0.5

    @property
    def fleet(self) -> Fleet:
        """Engines, router and clients."""
        return Fleet(self.replicas, self.router, self.patience_s, self.retries)

    @property
    def failure(self) -> Failure | None:
        """Of an engine, in mid-run."""
        return None if self.fail_at_s is None else Failure(self.fail_at_s, self.down_for_s)


@dataclass(frozen=True, slots=True)
class Answer:
    """`results` is `results.json`; `outcomes` has one replay per policy, in the same order."""

    results: dict[str, Any]
    trace: Trace
    facts: EngineFacts
    outcomes: list[Outcome]
    calm: tuple[Outcome, ...] = ()  # the same without the failure that was asked for


def classes_for(trace: Trace, told: str) -> Classes:
    """The classes of service told of, for a trace whose requests name theirs. Raises InputError."""
    classes = read_classes(told)
    if classes.given and trace.slo_class is None:
        raise InputError("classes", told, "must come with a trace whose requests name a class, in a column slo_class")
    return classes


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question whose every argument has been checked, ready to run."""

    question: Question
    policies: tuple[Policy, ...]
    setup: Setup
    engine: EngineSpec
    prefix_caching: PrefixCaching
    self_check: Check | None = None  # of the simulated engine against the recorded one

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever reads the figures must know first."""
        return () if self.prefix_caching.warning is None else (self.prefix_caching.warning,)

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
    if not 0.0 <= question.offload_gb_s < 1e6:
        raise InputError("offload-gb-s", question.offload_gb_s, "must be >= 0 and < 1e6")
    question.fleet.check()
    if question.failure is not None:
        question.failure.check()
    recording = recording_of(question.trace)
    engine = engine_spec(question.model, question.gpu, question.tp, question.kv_blocks, recording)
    trace = trace_of(recording, question.trace, question.limit, question.seed)
    check_fits(trace, engine.facts)
    engine, checked = _checked(question, recording, engine, trace)
    if question.mix is not None:
        trace = mixed(trace, load_trace(question.mix, None, question.seed), question.mix_share, question.seed)
        check_fits(trace, engine.facts)
    classes = classes_for(trace, question.classes)
    caching = resolve(trace, question.prefix_caching, engine.facts.block_size, _recorded_caching(recording))
    setup = Setup(
        capped(at_load(trace, engine.facts, question.load, caching.on), question.max_output_tokens),
        engine.facts,
        max_tokens=question.max_output_tokens,
        forecast=question.forecast,
        seed=question.seed,
        prefix_caching=caching.on,
        reload_s_per_token=reload_s_per_token(engine.kv_bytes, question.offload_gb_s) if question.offload_gb_s else 0.0,
        classes=classes,
    )
    if question.delay_s is not None:
        setup = dataclasses.replace(setup, delay_s=question.delay_s)
    return Prepared(question, policies, setup, engine, caching, checked)


def _recorded_caching(recording: Recording | None) -> bool | None:
    return None if recording is None else recorded_setting(recording.facts)


def _checked(
    question: Question, recording: Recording | None, engine: EngineSpec, trace: Trace
) -> tuple[EngineSpec, Check | None]:
    """The recorded engine with the step time that its recording shows, and how well it then does what was recorded."""
    if recording is None or not engine.as_recorded or question.kv_blocks is not None:
        return engine, None
    seen = seen_of(recording, question.limit)
    told = _recorded_caching(recording)
    caching = resolve(trace, question.prefix_caching if told is None else told, engine.facts.block_size).on
    cost, clock = clock_of(seen, trace, engine.facts, caching)
    engine = engine._replace(facts=dataclasses.replace(engine.facts, cost=cost))
    if seen is None:
        return engine, None
    as_vllm = replay(Setup(trace, engine.facts, prefix_caching=caching), parse_policy("fcfs"))
    return engine, check(seen, clock, trace, as_vllm)


def what_if(prepared: Prepared, solvers: Mapping[Knob, Solver], progress: Progress | None = None) -> Answer:
    """Replay the trace under every policy; one whose solver is missing follows its greedy rule, as in a fleet.

    Where a failure is asked for, each is replayed without it first.
    """
    setup, failure = prepared.setup, prepared.question.failure
    prefill_s, service_s = alone(setup)
    fleet = prepared.question.fleet
    bound_s = hindsight_bound_s(setup) if fleet.plain else None
    outcomes, calm, entries, timing = [], [], [], {}
    for policy in prepared.policies:
        solver = _solver_of(policy, solvers)
        started_s = time.perf_counter()
        outcome = _run(prepared, policy, solver, None, progress)
        if failure is not None:
            calm.append(outcome)
            outcome = _run(prepared, policy, solver, failure, progress)
        timing[policy.name] = round(time.perf_counter() - started_s, 3)
        columns = summarize(
            setup.trace,
            outcome,
            prefill_alone_s=prefill_s,
            service_alone_s=service_s,
            tpot_target_s=prepared.engine.tpot_target_s,
            classes=setup.classes,
        )
        outcomes.append(outcome)
        columns["over_bound"] = over_bound(setup, policy, outcome, bound_s)
        if failure is not None:
            columns["failure"] = failure_cost(setup.trace.arrival_s, failure, outcome, calm[-1])
        entries.append({"policy": policy.name, **columns})
    timing["total_s"] = round(sum(timing.values()), 3)
    results = _results(prepared, bound_s, entries, timing)
    whole = dataclasses.replace(setup.facts, total_blocks=fleet.replicas * setup.facts.total_blocks)
    return Answer(results, setup.trace, whole, outcomes, tuple(calm))


def _solver_of(policy: Policy, solvers: Mapping[Knob, Solver]) -> Solver | None:
    """Ablations plan in this process, since a service plans by its knob's own model."""
    if policy.planner is None:
        return None
    if policy.program is not None:
        return InProcess(policy.planner, program=policy.program)
    return solvers.get(policy.planner)


def _run(
    prepared: Prepared, policy: Policy, solver: Solver | None, failure: Failure | None, progress: Progress | None
) -> Outcome:
    fleet, name = prepared.question.fleet, policy.name
    if not fleet.plain:
        return play(prepared.setup, policy, fleet, failure)
    shown = None if progress is None else lambda share: progress(name, share)
    return replay(prepared.setup, policy, solver, shown, failure)


def _results(
    prepared: Prepared, bound_s: float | None, policies: Sequence[dict[str, Any]], timing: dict[str, float]
) -> dict[str, Any]:
    question, setup, checked = prepared.question, prepared.setup, prepared.self_check
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
            "model": prepared.engine.model,
            "gpu": prepared.engine.gpu,
            "tp": question.tp,
            "kv_blocks": facts.total_blocks,
            "block_size": facts.block_size,
            "max_num_seqs": facts.max_num_seqs,
            "max_num_batched_tokens": facts.max_num_batched_tokens,
            "prefix_caching": prepared.prefix_caching.on,
            "prefix_caching_says": prepared.prefix_caching.says,
        },
        "warnings": list(prepared.warnings),
        "self_check": None if checked is None else {**checked._asdict(), "says": checked.says()},
        "fleet": dataclasses.asdict(question.fleet),
        "classes": json.loads(setup.classes.text() or "{}"),
        "failure": None if question.failure is None else dataclasses.asdict(question.failure),
        "max_output_tokens": question.max_output_tokens,
        "offload_gb_s": question.offload_gb_s,
        "mix": None if question.mix is None else {"trace": question.mix, "share": question.mix_share},
        "load": question.load,
        "seed": question.seed,
        "forecast": question.forecast,
        "delay_s": setup.delay_s,
        "hindsight_bound": None if bound_s is None else {"e2e_mean_s": bound_s},
        "policies": list(policies),
        "timing": timing,
    }
