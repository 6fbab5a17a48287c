"""Contenders that serve the same loads in turn, each a server of its own, and what each made of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common._scratch import scratch
from experiments.live.serving._live_load import Ask, Kind, Told, asks, send
from experiments.live.serving._live_measure import Row, measured
from experiments.live.serving._live_server import LiveServer, Served
from experiments.live.serving._live_site import Site
from experiments.live.serving._live_tokens import mismatches

LOAD = 2.0  # arrivals, by how many plain vLLM serves when all come at once
REFERENCE_AT_ONCE = 32  # together they always fit
WARM_REQUESTS, SHORT = 20, Kind(output_median=16.0, output_tokens=(8, 32))
CHILD_TIMEOUT_S = 240.0
UNGUARDED = {"KVHORIZON_GUARDRAIL": "false"}  # control itself is judged, all of the time
LOCAL_ONLY = {"KVHORIZON_LOCAL_ONLY": "true", **UNGUARDED}


def contenders(served: Served) -> dict[str, Served]:
    """Who takes turns on a pool."""
    return {
        "plain": served,
        "watermark": replace(served, watermark=0.02),
        "greedy": replace(served, scheduler="ours", settings=LOCAL_ONLY),
        "program": replace(served, scheduler="ours", settings=UNGUARDED),
    }


class Contender:
    """A server, and how far its engine's counts had come when its last load ended."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.before: Row = {}
        self._finished = 0

    def serve(self, load: Sequence[Ask], at_once: int | None = None) -> tuple[Row, list[Told]]:
        """Put the load on it; what that meant, and what the clients saw."""
        cpu_s = self.server.cpu_s()
        told = send(self.server.url, load, at_once)
        self._finished += len(load)
        before, self.before = self.before, self.server.report(self._finished)
        return measured(load, told, before, self.before, self.server.cpu_s() - cpu_s), told

    def warm(self) -> None:
        """Everything compiled, and the solver child, where there is to be one, at work."""
        served = self.server.served
        child = served.scheduler == "ours" and not served.settings.get("KVHORIZON_LOCAL_ONLY")
        deadline_s = time.monotonic() + CHILD_TIMEOUT_S
        self.serve(asks(WARM_REQUESTS, 99, 50.0, SHORT))
        while child and self.before["child"] is None:
            if time.monotonic() > deadline_s:
                raise RuntimeError("the plugin started no solver")
            time.sleep(1.0)
            self.serve(asks(1, 99, 1.0, SHORT))

    def skip(self, requests: int) -> None:
        """So many requests went by beside the loads."""
        self._finished += requests


class Run(NamedTuple):
    """All rounds on a pool: the loads, what each contender made of each, and plain vLLM's steps."""

    arrivals_per_s: float
    loads: list[list[Ask]]
    rounds: list[dict[str, Any]]
    plain_steps: list[list[float]]


def run_rounds(served: Served, model: Path, here: Site) -> Run:
    """So many rounds with each start of the servers, on loads of their own."""
    rate, loads, rounds, steps = 0.0, [], [], []
    for _ in range(here.starts):
        with ExitStack() as stack:
            started = _started(stack, served, model)
            rate = rate or LOAD * _most_per_s(started["plain"], here)
            for seed in range(len(rounds), len(rounds) + here.rounds):
                loads.append(asks(here.requests, seed, rate, here.kind))
                rounds.append(_round(started, loads[seed], seed, here.real_weights))
            steps += started["plain"].before["steps"]
    return Run(rate, loads, rounds, steps)


def _started(stack: ExitStack, served: Served, model: Path) -> dict[str, Contender]:
    """All contenders, warm; `stack` stops them."""
    folder, started = scratch("servers"), {}
    for name, own in contenders(served).items():
        server = LiveServer(own, model, folder / name)
        stack.callback(server.stop)
        server.launch()
        started[name] = Contender(server)
    for contender in started.values():
        contender.server.wait()
        contender.warm()
    return started


def _most_per_s(plain: Contender, here: Site) -> float:
    """How many requests plain vLLM serves in a second when all come at once."""
    together = [ask._replace(arrival_s=0.0) for ask in asks(here.requests, 100, 1.0, here.kind)]
    return here.requests / float(plain.serve(together)[0]["makespan_s"])


def _round(started: dict[str, Contender], load: list[Ask], seed: int, compared: bool) -> dict[str, Any]:
    """All contenders serve the same load, one after the other; then tokens are `compared` with an undisturbed run's."""
    names = list(started)
    served = {}
    for name in names[seed % len(names) :] + names[: seed % len(names)]:
        served[name] = started[name].serve(load)
        _say(seed, name, served[name][0])
    rows = {name: row for name, (row, _) in served.items()}
    if not compared:
        return rows
    plain = started["plain"]
    _, reference = plain.serve(load, REFERENCE_AT_ONCE)
    tokens = {name: mismatches(plain.server.url, load, reference, told) for name, (_, told) in served.items()}
    plain.skip(int(sum(found["differ"] for found in tokens.values())))
    return {**rows, "tokens": tokens}


def _say(seed: int, name: str, row: Row) -> None:
    """So that whoever waits sees how it goes."""
    times = ", ".join(
        f"{key} {row[key]['mean']:.4g} p99 {row[key]['p99']:.4g}" for key in ("ttft_s", "tpot_s", "e2e_s")
    )
    counts = f"{row['preemptions']} preemptions, {row['recompute_tokens']} tokens recomputed"
    print(f"round {seed}, {name}: {counts}, {row['throughput_tok_s']:.0f} tokens/s, {times}", file=sys.stderr)
