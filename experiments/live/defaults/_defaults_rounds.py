"""Servers of all contenders, and rounds in which each serves the same closed loop in turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from experiments.common._scratch import scratch
from experiments.live.defaults._defaults_clients import run
from experiments.live.defaults._defaults_loads import PLAIN, Load
from experiments.live.defaults._defaults_measure import Row, measured
from experiments.live.defaults._defaults_models import Model, lora_options
from experiments.live.serving._live_measure import fit_cost, work_s
from experiments.live.serving._live_rounds import CHILD_TIMEOUT_S, LOCAL_ONLY, UNGUARDED
from experiments.live.serving._live_server import LiveServer, Served


class Contender(NamedTuple):
    """How a server differs from plain vLLM's; `settings` are environment variables."""

    scheduler: str = "plain"  # of `_live_probe`
    watermark: float = 0.0
    settings: dict[str, str] = {}  # noqa: RUF012  a NamedTuple's default is never written to

    @property
    def has_child(self) -> bool:
        """A solver of its own is started."""
        return self.scheduler == "ours" and not self.settings.get("KVHORIZON_LOCAL_ONLY")


CONTENDERS = {
    "plain": Contender(),
    "watermark": Contender(watermark=0.02),
    "rules": Contender("ours", settings=LOCAL_ONLY),
    "program": Contender("ours", settings=UNGUARDED),
}


class Engine(NamedTuple):
    """What loads on the same servers have in common."""

    blocks: int
    lora_and_grammar: bool


def engine_of(load: Load) -> Engine:
    """Loads of one pool share servers; adapters and a tokenizer are there only where some request needs them."""
    return Engine(load.blocks, any(session.kind != PLAIN for session in load.sessions))


class Server:
    """A contender's server, and how far its engine's counts had come when its last load ended."""

    def __init__(self, live: LiveServer, has_child: bool) -> None:
        self.live = live
        self._has_child = has_child
        self.steps: list[list[float]] = []  # of the last load, as the probe has them
        self._before: Row = {}
        self._finished = 0

    def serve(self, load: Load) -> Row:
        """Put the load on it; raises RuntimeError where one fails."""
        cpu_s = self.live.cpu_s()
        began = self._finished
        loop = run(self.live.url, load, lambda requests: self.live.expect(began + requests))
        failed = sum(not one.whole for one in loop.seen)
        if failed:
            raise RuntimeError(f"{failed} of {len(loop.seen)} requests of {load.name} failed")
        self._finished += loop.asked
        before, self._before = self._before, self.live.report(self._finished)
        self.steps = self._before["steps"][len(before.get("steps", [])) :]
        return measured(loop, before, self._before, self.live.cpu_s() - cpu_s)

    def warm(self, load: Load) -> None:
        """Everything compiled, and the solver child, where there is to be one, at work."""
        deadline_s = time.monotonic() + CHILD_TIMEOUT_S
        self.serve(load)
        while self._has_child and self._before["child"] is None:
            if time.monotonic() > deadline_s:
                raise RuntimeError("the scheduler plugin started no solver")
            time.sleep(1.0)
            self.serve(replace(load, sessions=load.sessions[:1]))


def one_round(servers: dict[str, Server], load: Load, number: int, model: Model) -> dict[str, Row]:
    """Each contender serves the load, one after the other; which is first rotates with the round's number.

    `work_s` is what the steps of a request would take by their work alone, priced as those of plain vLLM took it.
    """
    names, rows = list(servers), {}
    for name in names[number % len(names) :] + names[: number % len(names)]:
        rows[name] = row = servers[name].serve(load)
        print(f"{load.name}, round {number}, {name}: {_words(row)}", file=sys.stderr, flush=True)
    cost = fit_cost(servers["plain"].steps, model.config)
    for row in rows.values():
        row["work_s"] = work_s(row.pop("work"), cost) / row["requests"]
    return rows


def _words(row: Row) -> str:
    ttft, tpot, e2e = row["ttft_s"], row["tpot_s"], row["e2e_s"]
    times = f"TTFT {ttft['mean']:.3g} p99 {ttft['p99']:.3g}, TPOT {tpot['mean']:.3g}, e2e {e2e['mean']:.3g}"
    counts = (
        f"{row['preemptions']} preemptions, {row['prefill_tokens']:.0f} of {row['prompt_tokens']:.0f} tokens computed"
    )
    speed = f"{row['throughput_req_s']:.4g} requests/s in {row['full_s']:.3g} of {row['makespan_s']:.3g} s"
    return f"{speed}, {times}, {counts}"


def start(stack: ExitStack, model: Model, loads: Sequence[Load]) -> dict[str, Server]:
    """A warm server of each contender for these loads, which share an engine; `stack` stops them."""
    folder, servers = model.write(), {}
    for name, contender in CONTENDERS.items():
        live = LiveServer(served(model, folder, loads[0], contender), folder, scratch("servers") / name)
        stack.callback(live.stop)
        live.launch()
        servers[name] = Server(live, contender.has_child)
    for server in servers.values():
        server.live.wait()
        for load in loads:
            server.warm(load)
    return servers


def served(model: Model, folder: Path, load: Load, contender: Contender) -> Served:
    """A contender's server, with prefix caching as vLLM has it by default."""
    special = engine_of(load).lora_and_grammar
    return Served(
        blocks=load.blocks,
        seats=load.seats,
        batched=load.batched,
        max_len=load.max_len,
        scheduler=contender.scheduler,
        watermark=contender.watermark,
        dtype=model.config["torch_dtype"],
        options=(*model.options, *(lora_options(folder) if special else ())),
        settings=contender.settings,
        prefix_caching=True,
        tokenizer=special,
    )
