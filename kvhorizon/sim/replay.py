"""Replay a trace through the simulated engine under one policy.

The compiled loop runs until something outside it is due: requests that finished are to be learned from, a snapshot
is to be sent to the solver, or a plan is to be applied. The solver answers in real time, but its plan takes effect
`delay_s` later in *virtual* time, so that results do not depend on this machine's speed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kvhorizon.models.forecast.of_a_trace import Forecast, make_forecast
from kvhorizon.models.performance.kept_share import Kept
from kvhorizon.models.performance.step_time import undoing
from kvhorizon.models.slo.classes import weights_of
from kvhorizon.sim.engine.advance import FINISHED, LEARN, advance
from kvhorizon.sim.engine.arrays import (
    BUSY,
    DONE,
    NEAR_END,
    NOW,
    PAIRS,
    PREEMPTED,
    PREEMPTION_ROWS,
    RECOMPUTE,
    RECOMPUTED,
    RESTORED,
    RUNNING,
    SAMPLES,
    STEPS,
    TOKENS,
    Engine,
    Limits,
    new_columns,
    new_engine,
)
from kvhorizon.sim.engine.cache import FOUND, NEW_FOUND, NEW_LOOKED_UP, BlockCache, new_cache
from kvhorizon.sim.engine.contents import contents_of
from kvhorizon.sim.engine.failure import Failure, Lost, shut_down, strike
from kvhorizon.sim.engine.turns import turns_of
from kvhorizon.sim.outcome import Outcome
from kvhorizon.sim.policies.control import Plugin
from kvhorizon.sim.policies.plan_follower import PlanFollower
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.policies.view import collect_waiting
from kvhorizon.sim.policies.weights import Weights, weights_for
from kvhorizon.sim.setup import Setup, Solver
from kvhorizon.sim.workload.recorded import recorded
from kvhorizon.solver.heuristic.admission import refresh_remaining
from kvhorizon.solver.heuristic.scratch import Scratch, new_scratch
from kvhorizon.state import Habits

LEARN_EVERY = 32  # finished requests between two lessons of the forecast


def _limits(setup: Setup, policy: Policy) -> Limits:
    facts = setup.facts
    return Limits(
        total_blocks=facts.total_blocks,
        block_size=facts.block_size,
        max_seqs=facts.max_num_seqs,
        max_tokens=facts.max_num_batched_tokens,
        long_prefill_tokens=0,
        chunked=True,
        ahead=setup.async_scheduling,
        watermark_blocks=int(policy.watermark_share * (facts.total_blocks + 1)),
        free_recompute=policy.free_recompute,
        by_priority=policy.by_priority,
        reload_s_per_token=setup.reload_s_per_token,
        concurrency=setup.concurrency,
    )


def _cache(setup: Setup) -> BlockCache | None:
    if not setup.prefix_caching:
        return None
    trace, facts = setup.trace, setup.facts
    begin, contents = contents_of(trace, facts.block_size)
    most = int((trace.prompt_tokens + trace.output_tokens).max()) // facts.block_size + 1
    return new_cache(begin, contents, facts.total_blocks, facts.max_num_seqs, most)


def start(setup: Setup, policy: Policy, alone: bool = True) -> tuple[Engine, Forecast]:
    """An engine at time 0 and the forecast of its requests' lengths; `alone`: all turns of a session come to it."""
    trace, facts = setup.trace, setup.facts
    prompt = trace.prompt_tokens.astype(np.int32)
    limit = np.clip(facts.max_model_len - prompt, 1, setup.output_limit_tokens()).astype(np.int32)
    arrival_s = np.full(len(trace), np.inf) if setup.concurrency else trace.arrival_s
    names = trace.slo_class if setup.classes.given else None
    weight = None if names is None else weights_of(names, setup.classes)
    columns = new_columns(arrival_s, prompt, limit, weight)
    priority = None if trace.priority is None or not policy.by_priority else trace.priority.astype(np.int32)
    limits = _limits(setup, policy)
    turns = turns_of(trace) if setup.prefix_caching and policy.plugin.steers and alone else None
    engine = new_engine(columns, trace.output_tokens.astype(np.int32), limits, _cache(setup), priority, turns)
    forecast = make_forecast(
        setup.forecast if policy.plugin.steers else "history",
        prompt_tokens=trace.prompt_tokens,
        key=trace.key,
        output_limit=limit.astype(np.int64),
        true_output_tokens=trace.output_tokens,
        seed=setup.seed,
        recorded=recorded(trace) if setup.forecast.startswith("learned") else None,
    )
    return engine, forecast


def learn(engine: Engine, forecast: Forecast, scratch: Scratch, since: int) -> int:
    """Tell the forecast who runs and who finished; returns how many have by now."""
    done = int(engine.counters[DONE])
    running = engine.lists.running[: int(engine.counters[RUNNING])].astype(np.int64)
    forecast.watch(running, engine.columns.generated[running].astype(np.int64))
    finished = engine.lists.finished[since:done].astype(np.int64)
    if forecast.learn(finished, engine.columns.generated[finished].astype(np.int64), float(engine.clock[NOW])):
        size, _ = collect_waiting(engine, scratch.waiting)
        refresh_remaining(engine.columns, forecast.curves, scratch.waiting, size)
    return done


def priced(plugin: Plugin, engine: Engine, kept: Kept, setup: Setup) -> Plugin:
    """The scheduler plugin, who prices evictions net of what has come back so far."""
    kept.see(int(engine.counters[RESTORED]), int(engine.counters[RECOMPUTED]))
    return plugin._replace(losing=undoing(setup.facts.cost, kept.share, setup.reload_s_per_token))


def next_due_s(follower: PlanFollower | None, weights: Weights | None, failure: Failure | None) -> float:
    """When the replay must stop for one of them; inf: for none."""
    return min(
        follower.due_s if follower else np.inf,
        weights.due_s if weights else np.inf,
        failure.at_s if failure else np.inf,
    )


def fail(engine: Engine, failure: Failure, follower: PlanFollower | None) -> Lost:
    """The engine fails now, and plans for it are void; returns what was lost."""
    lost = strike(engine)
    shut_down(engine, failure)
    if follower:
        follower.forget()
    return lost


def replay(
    setup: Setup,
    policy: Policy,
    solver: Solver | None = None,
    progress: Callable[[float], None] | None = None,
    failure: Failure | None = None,
) -> Outcome:
    """Run every request of the trace to its end.

    `progress` is called now and then with the share of requests done. The solver is asked only by planned policies;
    without one, or while it fails, they fall back to their greedy rule. The engine may have a failure of its own.
    """
    engine, forecast = start(setup, policy)
    scratch = new_scratch(len(setup.trace), setup.facts.max_num_seqs)
    plugin = policy.plugin.at_work(len(setup.trace), setup.facts.max_num_seqs, setup.facts.cost, setup.prefix_caching)
    kept = Kept(setup.reload_s_per_token > 0.0)
    follower = PlanFollower(setup, engine, forecast, scratch, solver, policy.plugin.rule) if policy.planner else None
    weights = weights_for(setup, engine, scratch) if policy.plugin.steers else None
    total = len(setup.trace)
    report_every = max(1, total // 200)
    learned = 0
    ahead, lost = failure, None
    while True:
        plugin = priced(plugin, engine, kept, setup)
        if follower:
            follower.habits = Habits(1.0, round(kept.share, 3), setup.reload_s_per_token)
        until_s = next_due_s(follower, weights, ahead)
        learn_at = learned + LEARN_EVERY if plugin.steers else int(engine.counters[DONE]) + report_every
        reason = advance(engine, forecast.curves, plugin, setup.facts.cost, scratch, until_s, learn_at, True)
        if progress:
            progress(float(engine.counters[DONE]) / total)
        if reason == FINISHED:
            return outcome_of(setup, engine, follower.plans if follower else {}, lost)
        if reason == LEARN and plugin.steers:
            learned = learn(engine, forecast, scratch, learned)
            continue
        now_s = float(engine.clock[NOW])
        if ahead and now_s >= ahead.at_s:
            lost, ahead = fail(engine, ahead, follower), None
            continue
        if weights:
            weights.tick()
        if follower and now_s >= follower.due_s:
            follower.tick()


def outcome_of(setup: Setup, engine: Engine, plans: dict[str, int], lost: Lost | None = None) -> Outcome:
    """What an engine leaves behind; `lost` by a failure of its own."""
    live, count, clock = engine.live, engine.counters, engine.clock
    cost = setup.facts.cost
    wasted = cost.flops_per_token * live.recompute_tokens + cost.flops_per_pair * live.recompute_pairs
    preemptions = engine.columns.preemptions.astype(np.int64)
    if lost is not None:
        preemptions[lost.requests] -= 1
    events = engine.lists.preempted_at[: min(int(count[PREEMPTED]), PREEMPTION_ROWS)]
    return Outcome(
        first_token_s=live.first_token_s,
        finish_s=live.finish_s,
        preemptions=preemptions,
        recompute_tokens=live.recompute_tokens.astype(np.int64),
        wasted_flops=wasted,
        steps=int(count[STEPS]),
        busy_s=float(clock[BUSY]),
        makespan_s=float(np.nanmax(live.finish_s, initial=0.0)),
        recompute_s=float(clock[RECOMPUTE]),
        flops=float(cost.flops_per_token * clock[TOKENS] + cost.flops_per_pair * clock[PAIRS]),
        timeline=engine.lists.timeline[: int(count[SAMPLES])].copy(),
        preempted_at=events.copy(),
        plans=plans,
        near_end_preemptions=int(count[NEAR_END]),
        cached_tokens=int(engine.cache.marks[FOUND]) if engine.cache else 0,
        looked_up_tokens=int(engine.cache.marks[NEW_LOOKED_UP]) if engine.cache else 0,
        cached_prompt_tokens=int(engine.cache.marks[NEW_FOUND]) if engine.cache else 0,
        computed_tokens=int(clock[TOKENS]),
        lost_requests=0 if lost is None else len(lost.requests),
        lost_tokens=0 if lost is None else lost.tokens,
    )
