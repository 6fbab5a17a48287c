"""Faults on a live engine under load: no request is lost, no step is held up, and the plugin comes back to work.

Most are planted in an engine core with its model in this process (`_live_core`): a server would hide at which step a
fault strikes, and its engine cannot be reached from outside without a hook that no server has. Clients that disconnect
and an engine that is killed are tried on a whole server. Before each fault vLLM alone serves the same load for as many
rounds; the longest rounds of either are compared, those until recovery among ours. A round is one turn of the engine's
loop, as its thread experiences it (`_live_clock`); arrivals are part of it.

`recovery_s` counts until a new plan is followed: from when a fault is lifted, from when it struck where it heals by
itself, and for a flood from when the queue has its usual length. Needs `make engine`.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.common._harness import Options, main, target
from experiments.common._scratch import scratch
from experiments.live.faults._live_bench import Bench
from experiments.live.faults._live_core import WAITING, wait_for_plans
from experiments.live.faults._live_faults import (
    CHILD_FAULTS,
    ENGINE_FAULTS,
    SERVICE_FAULTS,
    Fault,
    nothing,
)
from experiments.live.serving._live_http import GONE_WITHIN_S, Watched, disconnects, kill_engine, with_plugin

ROUNDS, QUICK_ROUNDS = 150, 60
RECOVERY_LIMIT_S = 180.0
MEETING_LIMIT_S = 60.0  # for the load to come upon a planted error
CALM_ROUNDS = 20  # after the plugin has read the engine anew
WORST_STEP_RATIO = 3.0
Row = dict[str, Any]


def face(bench: Bench, fault: Fault, rounds: int) -> Row:
    """One fault, once: plain vLLM, then the plugin with the fault planted, then its recovery."""
    live = bench.live
    live.plain(alone=True)
    if fault.same_for_plain:
        fault.plant(bench)
    plain = window(bench, rounds)
    live.plain(alone=False)
    live.under_load(CALM_ROUNDS)
    wait_for_plans(live, RECOVERY_LIMIT_S)
    before, met = len(live.lost), bench.met
    struck_s = time.monotonic()
    lift = fault.plant(bench)
    ours = window(bench, rounds)
    while fault.counts and bench.met == met and time.monotonic() - struck_s < MEETING_LIMIT_S:
        ours += live.under_load(10)
    begin_s = struck_s if lift is nothing and not fault.same_for_plain else time.monotonic()
    lift()
    while fault.healed is not None and not fault.healed(bench) and time.monotonic() - begin_s < RECOVERY_LIMIT_S:
        ours += live.under_load(10)
    planned = math.isfinite(wait_for_plans(live, RECOVERY_LIMIT_S, ours))
    return {
        "met": not fault.counts or bench.met > met,
        "lost": len(live.lost) - before,
        "longest_step_s": max(ours),
        "plain_longest_step_s": max(plain),
        "recovery_s": time.monotonic() - begin_s if planned else math.inf,
    }


def window(bench: Bench, rounds: int) -> list[float]:
    """Seconds of so many rounds, and of those until the queue has its usual length."""
    seconds = bench.live.under_load(rounds)
    while bench.live.waiting > WAITING + 5:
        seconds += bench.live.under_load(10)
    return seconds


def judged(run: Row) -> Row:
    """What happened, and whether that is survival."""
    ratio = run["longest_step_s"] / run["plain_longest_step_s"]
    whole = run["met"] and run["lost"] == 0 and ratio <= WORST_STEP_RATIO
    return {**run, "step_ratio": ratio, "survived": whole and run["recovery_s"] <= RECOVERY_LIMIT_S}


def in_process(options: Options) -> tuple[dict[str, Row], Row]:
    """All faults that an engine core can meet, by name and part, and how the engine stands at the end."""
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    bench = Bench()
    groups: list[tuple[Callable[[], None] | None, Sequence[Fault]]] = [
        (bench.use_child, CHILD_FAULTS),
        (bench.use_service, SERVICE_FAULTS),
        (None, ENGINE_FAULTS),
    ]
    try:
        found: dict[str, Row] = {}
        for prepare, faults in groups:
            if prepare is not None and faults:
                prepare()
            for fault in faults:
                name = f"{fault.name}: {fault.part}" if fault.part else fault.name
                found[name] = judged(face(bench, fault, rounds))
                print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        bench.live.drain()
        plugin, live = bench.live.plugin, bench.live
        pool = live.scheduler.kv_cache_manager.block_pool
        assert plugin.telemetry is not None
        assert plugin.telemetry.recorder is not None
        plugin.telemetry.once(last=True)
        end = {
            "finished": live.finished,
            "lost": len(live.lost),
            "blocks_missing": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
            "rows_left": len(plugin.rows.slot_of),
            "hidden": plugin.hidden,
            "recorded": plugin.telemetry.recorder.written,
            "recordings_lost": plugin.telemetry.recorder.lost,
            "plugin_errors": dict(plugin.guard.failures + plugin.account_guard.failures),
            "ladder": dict(plugin.ladder),
        }
        return found, end
    finally:
        bench.close()


def served() -> tuple[dict[str, Row], Row]:
    """Faults that need a server, and what was left of a killed engine."""
    folder = scratch("served")
    server, switch = with_plugin(folder)
    with server:
        watched = Watched(server)
        watched.wait_for_child()
        left = judged(disconnects(watched, switch))
        killed = kill_engine(watched, folder)
    whole = killed["gone_s"] <= GONE_WITHIN_S and not killed["left_behind"]
    return {"client disconnects": left}, {**killed, "survived": whole}


def measure(options: Options) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """All faults."""
    faults, end = in_process(options)
    more, killed = served()
    faults |= more
    names = dict.fromkeys(name.split(":")[0] for name in faults)
    survived = [all(row["survived"] for name, row in faults.items() if name.split(":")[0] == one) for one in names]
    figures = {
        "faults": faults,
        "engine killed": killed,
        "at the end": end,
        "kinds_of_faults": len(names) + 1,
        "slowest_recovery_s": max(row["recovery_s"] for row in faults.values()),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }
    lost = end["lost"] + sum(row["lost"] for row in more.values())
    targets = {
        "faults_survived": target(sum(survived) + killed["survived"], ">=14"),
        "lost_requests": target(lost, "<=0"),
        "worst_step_ratio": target(max(row["step_ratio"] for row in faults.values()), "<=3"),
    }
    return figures, targets


if __name__ == "__main__":
    main("faults_live", 0, measure)
