"""Looking at a replay from time to time, whoever steers it.

Sampling ends a quiet stretch early, so that plugins look at their queue then: at most once more per sample.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kvhorizon.models.forecast.of_a_trace import Forecast
from kvhorizon.sim.engine.advance import FINISHED, LEARN, advance
from kvhorizon.sim.engine.arrays import DONE, NOW, RUNNING, Engine
from kvhorizon.sim.policies.baselines.peak import future_peak
from kvhorizon.sim.policies.registry import Policy
from kvhorizon.sim.policies.view import collect_waiting
from kvhorizon.sim.replay import LEARN_EVERY, start
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.heuristic.admission import refresh_remaining
from kvhorizon.solver.heuristic.scratch import Scratch, new_scratch

SAMPLE_SHARE = 1 / 200  # of the time until the last arrival or of ten minutes, whichever is longer
Look = Callable[[Engine], tuple[float, ...]]


def peak_share(engine: Engine) -> float:
    """True future peak of the running batch, were no other admitted to it [share of the pool]."""
    batch = engine.lists.running[: engine.counters[RUNNING]]
    context = engine.columns.prompt[batch] + engine.columns.generated[batch]
    left = np.maximum(engine.live.output[batch] - engine.columns.generated[batch], 0)
    order = np.argsort(-left, kind="stable")
    peak = future_peak(context[order].astype(float), left[order].astype(float), len(batch))
    return float(peak) / (engine.limits.total_blocks * engine.limits.block_size)


def sampled(setup: Setup, policy: Policy, look: Look) -> np.ndarray:
    """(S, n) what `look` saw every so often while anything ran."""
    engine, forecast = start(setup, policy)
    scratch = new_scratch(len(setup.trace), setup.facts.max_num_seqs)
    plugin = policy.plugin.at_work(len(setup.trace), setup.facts.max_num_seqs, setup.facts.cost)
    every_s = SAMPLE_SHARE * max(float(setup.trace.arrival_s[-1]), 600.0)
    found, due_s, learned = [], every_s, 0
    while True:
        learn_at = learned + LEARN_EVERY
        reason = advance(engine, forecast.curves, plugin, setup.facts.cost, scratch, due_s, learn_at, True)
        if reason == FINISHED:
            return np.array(found or [look(engine)])
        if reason == LEARN:
            learned = _learn(engine, forecast, scratch, learned)
        else:
            found.append(look(engine))
            due_s += every_s


def _learn(engine: Engine, forecast: Forecast, scratch: Scratch, since: int) -> int:
    """Tell the forecast who finished, as a replay does; returns how many have by now."""
    done = int(engine.counters[DONE])
    finished = engine.lists.finished[since:done].astype(np.int64)
    if forecast.learn(finished, engine.columns.generated[finished].astype(np.int64), float(engine.clock[NOW])):
        size, _ = collect_waiting(engine, scratch.waiting)
        refresh_remaining(engine.columns, forecast.curves, scratch.waiting, size)
    return done
