"""Looking at a replay from time to time, whoever steers it.

Sampling ends a quiet stretch early, so that guests look at their queue then: at most once more per sample.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kvhorizon.models.forecast import Forecast
from kvhorizon.sim.advance import FINISHED, LEARN, advance
from kvhorizon.sim.arrays import DONE, NOW, RUNNING, Engine
from kvhorizon.sim.look import collect_waiting
from kvhorizon.sim.policies import Policy
from kvhorizon.sim.replay import LEARN_EVERY, start
from kvhorizon.sim.rivals.peak import future_peak
from kvhorizon.sim.setup import Setup
from kvhorizon.solver.desk import Desk, new_desk
from kvhorizon.solver.select import refresh_remaining

SAMPLE_SHARE = 1 / 200  # of the time until the last arrival or of ten minutes, whichever is longer
Look = Callable[[Engine], tuple[float, ...]]


def peak_share(engine: Engine) -> float:
    """True future peak of the running batch, were nobody admitted to it [share of the pool]."""
    batch = engine.lists.running[: engine.counters[RUNNING]]
    context = engine.columns.prompt[batch] + engine.columns.generated[batch]
    left = np.maximum(engine.live.output[batch] - engine.columns.generated[batch], 0)
    order = np.argsort(-left, kind="stable")
    peak = future_peak(context[order].astype(float), left[order].astype(float), len(batch))
    return float(peak) / (engine.limits.total_blocks * engine.limits.block_size)


def sampled(setup: Setup, policy: Policy, look: Look) -> np.ndarray:
    """(S, n) what `look` saw every so often while anything ran."""
    engine, forecast = start(setup, policy)
    desk = new_desk(len(setup.trace), setup.facts.max_num_seqs)
    guest = policy.guest.at_work(len(setup.trace), setup.facts.max_num_seqs, setup.facts.cost)
    every_s = SAMPLE_SHARE * max(float(setup.trace.arrival_s[-1]), 600.0)
    found, due_s, learned = [], every_s, 0
    while True:
        learn_at = learned + LEARN_EVERY
        reason = advance(engine, forecast.curves, guest, setup.facts.cost, desk, due_s, learn_at, True)
        if reason == FINISHED:
            return np.array(found or [look(engine)])
        if reason == LEARN:
            learned = _learn(engine, forecast, desk, learned)
        else:
            found.append(look(engine))
            due_s += every_s


def _learn(engine: Engine, forecast: Forecast, desk: Desk, since: int) -> int:
    """Tell the forecast who finished, as a replay does; returns how many have by now."""
    done = int(engine.counters[DONE])
    finished = engine.lists.finished[since:done].astype(np.int64)
    if forecast.learn(finished, engine.columns.generated[finished].astype(np.int64), float(engine.clock[NOW])):
        size, _ = collect_waiting(engine, desk.waiting)
        refresh_remaining(engine.columns, forecast.curves, desk.waiting, size)
    return done
