"""Does the plugin ever harm vLLM's real scheduler? Random plans, decisions and faults, with everything counted twice.

Each seed is one engine: synchronous or not, with and without prefix caching, first come first served or by priority,
with drafts or without, with and without LoRA and images, with structured output whose grammars come late or fail, with
random aborts and, in most steps, a random and sometimes nonsensical plan; with prefix caching all prompts begin alike,
and conversations go on from what their last turn left. In two thirds of the seeds decisions are random in place of the
rule's, and in a third errors are raised inside the plugin. Needs vLLM (0.32).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.common._harness import Options, main, target
from experiments.engine._plugin_driver import Drive, drive
from experiments.engine._plugin_engine import Setup
from experiments.fuzz._fuzz_load import Load
from experiments.parity._auditor import Auditor
from kvhorizon.adapter.control.step_policy import Choice
from kvhorizon.solver.evictions import Gates
from kvhorizon.solver.expiry import DatedPlan
from kvhorizon.state import Plan, Source

SEED = 0
SEEDS, QUICK_SEEDS = 48, 12
REQUESTS = 120
DRAFTS = 3  # in every fifth seed
LORAS = 2  # adapters at once, in half of the seeds
IMAGES = 64  # embeddings a step, in a third of the seeds


@dataclass
class RandomPlans:
    """In a session's place: a new plan now and then, right, wrong, too old or absurd."""

    rng: random.Random
    epoch: int
    rows: Any
    now: Callable[[], float]
    newest: Any = None
    solver: object = None
    offers: int = 0
    replaced: int = 0
    failed_starts: int = 0
    errors: int = 0
    took_s: float = 0.0

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def offer(self, snapshot: object) -> None:
        """Count it."""
        self.offers += 1

    def draw(self) -> None:
        """A plan for the next step."""
        rng, known = self.rng, list(self.rows.slot_of_handle)
        if rng.random() < 0.3:
            return
        if rng.random() < 0.02:
            self.newest = "no plan at all"
            return
        pick = [handle for handle in known if rng.random() < 0.5] + [rng.randrange(10**12) for _ in range(3)]
        rng.shuffle(pick)
        some = np.array(pick, dtype=np.uint64)
        plan = Plan(
            engine_epoch=self.epoch if rng.random() < 0.9 else 7,
            based_on_revision=rng.randrange(1000),
            source=rng.choice(list(Source)),
            admissions=some,
            admit_at_steps=np.array([rng.choice([0.0, 0.0, 8.0]) for _ in pick]),
            evictions=some[::-1],
            bucket_steps=np.zeros(0),
            block_prices=np.zeros(0),
        )
        self.newest = DatedPlan(plan, self.now() - rng.choice([0.0, 0.0, 0.0, 1.0, 3.0]))


@dataclass
class Count:
    """Over all seeds."""

    preemptions: int = 0
    lost: int = 0
    block_errors: int = 0
    accounting_errors: int = 0
    aborted: int = 0
    refused: int = 0
    turns: int = 0
    adapter_errors: int = 0
    steps: int = 0
    recomputed: int = 0
    plugin_errors: int = 0
    evicted_by_plan: int = 0
    ladder: dict[str, int] = field(default_factory=dict)


def measure(options: Options) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Many seeds; a quick run has fewer."""
    count = Count()
    for seed in range(SEED, SEED + (QUICK_SEEDS if options.quick else SEEDS)):
        fuzz(seed, count)
    figures = {
        "steps": count.steps,
        "aborted": count.aborted,
        "grammars_failed": count.refused,
        "later_turns": count.turns,
        "recomputed_tokens": count.recomputed,
        "errors_planted_and_caught": count.plugin_errors,
        "evicted_by_plan": count.evicted_by_plan,
        "ladder": count.ladder,
    }
    least = 10_000 if not options.quick else 2_000
    targets = {
        "preemptions": target(count.preemptions, f">={least}"),
        "lost_requests": target(count.lost, "<=0"),
        "block_errors": target(count.block_errors, "<=0"),
        "accounting_errors": target(count.accounting_errors, "<=0"),
        "adapter_errors": target(count.adapter_errors, "<=0"),
    }
    return figures, targets


def fuzz(seed: int, count: Count) -> None:
    """One engine, from the first arrival until it is empty."""
    rng = random.Random(seed)
    asynchronous, caching = seed % 2 == 1, seed // 2 % 2 == 1
    setup = Setup(
        blocks=rng.choice([80, 120, 160]),
        batched=rng.choice([128, 512]),
        asynchronous=asynchronous,
        caching=caching,
        policy="priority" if seed % 3 == 2 else "fcfs",
        watermark=rng.choice([0.0, 0.02]),
        drafts=DRAFTS if seed % 5 == 4 else 0,
        adapters=LORAS if seed % 4 in (1, 2) else 0,
        images=IMAGES if seed % 3 == 0 else 0,
        settings={
            "local_only": True,
            "evict": True,
            "guardrail": seed % 4 > 1,
            "knob": rng.choice(["balanced", "means", "means"]),
        },
    )
    load = Load(REQUESTS, seed, caching, loras=setup.adapters > 0, images=setup.images > 0)
    engine = drive(setup)
    plugin = engine.scheduler.kvhorizon
    plans = RandomPlans(rng, plugin.plans._epoch, plugin.rows, plugin.now)
    plugin.session = plans
    if seed % 3 != 0:
        _decide_at_random(plugin, rng)
    if seed % 3 == 1:
        _plant_errors(plugin, rng)
    auditor = _run(engine, load, rng, plans, count)
    _settle(engine, auditor, load, setup, count)


def _decide_at_random(plugin: Any, rng: random.Random) -> None:
    """Any subset in any order, any victims; evictions without their gates."""

    def choose(rows: Any, engine: Any, demand: Any, candidates: Any, now_s: float) -> Choice:
        slots = [slot for slot in candidates.tolist() if rng.random() < 0.6]
        rng.shuffle(slots)
        return Choice(slots, [rng.random() < 0.5 for _ in slots])

    plugin.rule.choose = choose
    plugin.rule.infeasible = lambda *_: rng.random() < 0.1
    plugin.rule.victims = lambda rows, demand, now_s: iter(rng.sample(range(len(demand.slots)), len(demand.slots)))
    plugin.control.gates = Gates(occupancy=0.0, residency_s=0.0)


def _plant_errors(plugin: Any, rng: random.Random) -> None:
    """Each of these raises now and then, so that a rebuild in between mostly succeeds."""
    for owner, name, share in (
        (plugin.intake, "add", 0.002),
        (plugin.admitted, "take", 0.02),
        (plugin, "_rebuild", 0.1),
        (plugin.control, "_choose", 0.02),
        (plugin.control, "_shown", 0.02),
        (plugin.control.adapters, "admissible", 0.02),
        (plugin.intake.grammars, "settle", 0.02),
        (plugin.control, "_put_victims_last", 0.02),
        (plugin.rows, "wait", 0.002),
        (plugin.ticker, "tick", 0.02),
    ):
        _break(owner, name, share, rng)


def _break(owner: Any, name: str, share: float, rng: random.Random) -> None:
    whole = getattr(owner, name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if rng.random() < share:
            raise RuntimeError(f"planted in {name}")
        return whole(*args, **kwargs)

    setattr(owner, name, broken)


def _run(engine: Drive, load: Load, rng: random.Random, plans: RandomPlans, count: Count) -> Auditor:
    auditor = Auditor(engine.scheduler)
    leaving = {request.request_id for request in load.requests if rng.random() < 0.1}
    heard = 0
    for _ in range(100_000):
        while load.arriving and rng.random() < 0.5:
            request = load.arrive()
            auditor.arrived(request)
            engine.scheduler.add_request(request)
        for name in [name for name in leaving if name in engine.scheduler.requests and rng.random() < 0.02]:
            engine.abort(name)
            leaving.discard(name)
        load.step(engine.scheduler)
        if not load.arriving and not engine.busy:
            break
        plans.draw()
        engine.step(auditor.see)
        count.adapter_errors += _adapters(engine.scheduler.running) > LORAS
        for (_, name, tokens), step in zip(engine.trace[heard:], engine.given_by[heard:], strict=True):
            auditor.delivered(name, tokens, step)
        heard = len(engine.trace)
        if engine.scheduler.kvhorizon.guard.retired:
            engine.scheduler.kvhorizon.recall()
    return auditor


def _adapters(running: list[Any]) -> int:
    """That run at once."""
    return len({request.lora_request.lora_int_id for request in running if request.lora_request is not None})


def _settle(engine: Drive, auditor: Auditor, load: Load, setup: Setup, count: Count) -> None:
    """Add up one seed: who is missing, what does not agree."""
    scheduler, plugin = engine.scheduler, engine.scheduler.kvhorizon
    total, requests = plugin.accounting.total, load.requests
    count.turns, count.refused = count.turns + load.turns, count.refused + len(load.refused)
    for request in requests:
        whole = request.num_output_tokens == request.max_tokens
        aborted = request.status.name == "FINISHED_ABORTED"
        count.aborted += aborted
        refused = request.request_id in load.refused and request.status.name == "FINISHED_ERROR"
        count.lost += not (request.is_finished() and (whole or aborted or refused))
    full = scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == setup.blocks - 1
    count.block_errors += auditor.block_errors + (not full)
    per_engine = sum(request.num_preemptions for request in requests)
    count.accounting_errors += total.recompute_tokens != auditor.recomputed
    count.accounting_errors += not total.preemptions == auditor.preemptions == per_engine
    count.accounting_errors += plugin.accounting.tracked != 0 or plugin.accounting.finished != len(requests)
    count.accounting_errors += plugin.account_guard.total
    count.preemptions += total.preemptions
    count.recomputed += total.recompute_tokens
    count.steps += len(engine.steps)
    count.plugin_errors += plugin.guard.total
    count.evicted_by_plan += plugin.control.evicted
    for source, steps in plugin.ladder.items():
        count.ladder[source] = count.ladder.get(source, 0) + steps


if __name__ == "__main__":
    main("fuzz_engine", SEED, measure)
