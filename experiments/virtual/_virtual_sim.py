"""The requests of a run under the virtual clock, put through the simulator: same arrivals, pool, step cost, policy.

The clients of plain vLLM are a closed loop; its arrivals are what all policies get, in both. (Were they those of each
policy's own loop, a small difference in the simulator would move a queue that these arrivals just keep in balance:
the drive itself, given its own arrivals and a step time changed by .2 %, differs by a sixth.) What requests share is
told by hashes of their prompts' blocks, or, in conversations, by the session that they continue. The plugin prices its
steps as the simulator does, and has the plans of a machine with many cores: one every tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.live.defaults._defaults_loads import BLOCK, Load, make_load
from experiments.virtual._virtual_runs import Case, run_all, solver
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.trace import Trace, make_trace
from kvhorizon.state import EngineFacts, StepCost

if TYPE_CHECKING:
    from experiments.virtual._virtual_drive import Seen

FloatArray = NDArray[np.float64]
FIGURES = "ttft", "e2e", "preemptions"
POLICIES = {"plain": "fcfs", "watermark": "watermark:0.02", "rules": "kvhorizon:greedy", "program": "kvhorizon"}
LOADS = "shared", "sessions", "cold"
MODEL = "heavy"
CORES = 16
LEAST_PREEMPTIONS = 100  # fewer say nothing of a difference


def trace_of(seen: Sequence[Seen]) -> Trace:
    """The requests in order of arrival, and what they share."""
    asks = [one.ask for one in seen]
    arrival_s = np.array([one.sent_s for one in seen])
    turns = max(ask.turns for ask in asks) > 1
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    hashes = []
    for ask in asks:
        chain, mine = -1, []
        for at in range(0, len(ask.prompt) // BLOCK * BLOCK, BLOCK):
            chain = known.setdefault((chain, tuple(ask.prompt[at : at + BLOCK])), len(known))
            mine.append(chain)
        hashes.append(np.array(mine, np.int64))
    return make_trace(
        "virtual",
        arrival_s - arrival_s[0],
        np.array([len(ask.prompt) for ask in asks]),
        np.array([ask.output_tokens for ask in asks]),
        prefix_hashes=None if turns else tuple(hashes),
        prefix_tokens=0 if turns else BLOCK,
        session=np.array([ask.session for ask in asks]) if turns else None,
    )


def simulated(trace: Trace, load: Load, cost: StepCost, policy: str) -> Outcome:
    """The trace in the simulator."""
    facts = EngineFacts(load.blocks - 1, BLOCK, load.seats, load.batched, load.max_len, cost, engine_epoch=1)
    setup = Setup(trace, facts, max_tokens=load.max_tokens, prefix_caching=True)
    chosen = parse_policy(policy)
    return replay(setup, chosen, InProcess(chosen.planner) if chosen.planner else None)


def difference(seeds: Iterable[int], requests: int) -> dict[str, dict[str, float]]:
    """By load and policy, relative differences of the drive's means over the seeds from the simulator's."""
    cases = [Case(name, MODEL, seed, requests) for name in LOADS for seed in seeds]
    pairs = list(zip(cases, run_all(both, cases), strict=True))
    found = {}
    for name in LOADS:
        for contender in POLICIES:
            drive, sim = np.mean([pair[contender] for case, pair in pairs if case.load == name], axis=0)
            found[f"{name}_{contender}"] = _relative(drive, sim)
    return found


def both(case: Case) -> dict[str, tuple[list[float], list[float]]]:
    """By contender, the figures of the drive and of the simulator on one case."""
    from experiments.virtual._virtual_drive import CONTENDERS, MODELS, Drive

    load, cost = make_load(case.load, case.requests, case.seed), MODELS[case.model]
    arrivals = Drive(load, CONTENDERS["plain"], cost).run()
    trace, found = trace_of(arrivals), {}
    for name, policy in POLICIES.items():
        contender = replace(CONTENDERS[name], cores=CORES, knows_cost=True)
        seen = Drive(load, contender, cost, solver(), arrivals=arrivals).run()
        found[name] = _of_drive(seen), _of_sim(trace, simulated(trace, load, cost, policy))
    return found


def _of_drive(seen: Sequence[Seen]) -> list[float]:
    """Mean TTFT and end-to-end time [s], preemptions."""
    times = np.array([(one.first_s - one.sent_s, one.last_s - one.sent_s, one.preemptions) for one in seen])
    return [*times[:, :2].mean(axis=0), times[:, 2].sum()]


def _of_sim(trace: Trace, outcome: Outcome) -> list[float]:
    ttft, e2e = outcome.first_token_s - trace.arrival_s, outcome.finish_s - trace.arrival_s
    return [float(ttft.mean()), float(e2e.mean()), float(outcome.preemptions.sum())]


def _relative(drive: FloatArray, sim: FloatArray) -> dict[str, float]:
    """Of (3,) figures; a difference in preemptions is one to at least `LEAST_PREEMPTIONS`."""
    least = np.array([1e-9, 1e-9, LEAST_PREEMPTIONS])
    return dict(zip(FIGURES, ((drive - sim) / np.maximum(sim, least)).tolist(), strict=True))
