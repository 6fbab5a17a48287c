"""Bad rules, planted into the plugin in place of its own: each does harm of another kind."""

from __future__ import annotations

from typing import Any

from kvhorizon.adapter import compat
from kvhorizon.adapter.control.step_policy import NO_REQUEST, Choice
from kvhorizon.solver.heuristic.params import varied

TOGETHER = 2  # requests that run at a time
RESERVE = 0.6  # of the pool, that admissions leave free
EVICT_EVERY = 5  # steps
LINGER_S = 5.0


def few_at_a_time(plugin: Any) -> None:
    """No request is admitted while two run."""
    choose = plugin.rule.choose

    def choose_few(rows: Any, engine: Any, demand: Any, candidates: Any, now_s: float) -> Choice:
        more = TOGETHER - len(engine.scheduler.running)
        chosen = choose(rows, engine, demand, candidates, now_s) if more > 0 else NO_REQUEST
        return Choice(chosen.slots[:more], chosen.overtakes[:more]) if chosen.slots else NO_REQUEST

    plugin.rule.choose = choose_few


def large_reserve(plugin: Any) -> None:
    """Most of the pool stays empty."""
    rule = plugin.rule
    shares = {"min_share": RESERVE, "cap_share": RESERVE}
    rule._at_one_token = varied(rule._at_one_token, **shares)
    rule.greedy = varied(rule.greedy, **shares)


def needless_evictions(plugin: Any) -> None:
    """The request that has run longest is evicted, again and again, whatever is free."""
    control = plugin.control
    known_without = control.fast_path

    def evict_first(now_s: float, may_evict: bool) -> bool:
        running = control.engine.scheduler.running
        if control.step % EVICT_EVERY == 0 and len(running) > 1:
            compat.evict(control.engine.scheduler, running[0], now_s)
        return bool(known_without(now_s, may_evict))

    control.fast_path = evict_first


def late_admission(plugin: Any) -> None:
    """No request is admitted in its first seconds, whatever is free."""
    choose = plugin.rule.choose

    def choose_old(rows: Any, engine: Any, demand: Any, candidates: Any, now_s: float) -> Choice:
        old = candidates[rows.columns.arrival_s[candidates] <= now_s - LINGER_S]
        return choose(rows, engine, demand, old, now_s) if len(old) else NO_REQUEST

    plugin.rule.choose = choose_old


def newest_first(plugin: Any) -> None:
    """Of those that wait only the one that came last may go: bad for the oldest, no worse on average."""
    choose = plugin.rule.choose

    def choose_newest(rows: Any, engine: Any, demand: Any, candidates: Any, now_s: float) -> Choice:
        place = int(rows.columns.arrival_s[candidates].argmax())
        return choose(rows, engine, demand, candidates[place : place + 1], now_s)

    plugin.rule.choose = choose_newest


BAD = {
    "few_at_a_time": few_at_a_time,
    "large_reserve": large_reserve,
    "needless_evictions": needless_evictions,
    "late_admission": late_admission,
}
