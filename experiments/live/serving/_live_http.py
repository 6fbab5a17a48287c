"""Two faults that need a whole server: clients that disconnect, and an engine that is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from experiments.live.serving._live_load import Ask, Told, asks, lost, send
from experiments.live.serving._live_measure import OWN
from experiments.live.serving._live_model import write_model
from experiments.live.serving._live_server import LiveServer, Served

REQUESTS = 80
LEAVES_AFTER = 3  # answers
GONE_WITHIN_S = 2.0
CHILD_TIMEOUT_S = 240.0
Row = dict[str, Any]


def with_plugin(folder: Path, blocks: int = 240) -> tuple[LiveServer, Path]:
    """A server with the plugin and its solver child; and the file that leaves vLLM alone while it exists."""
    switch = folder / "off"
    settings = {"KVHORIZON_KILL_SWITCH": str(switch), "TMPDIR": str(folder)}
    return LiveServer(Served(blocks, scheduler="ours", settings=settings), write_model(), folder / "server"), switch


class Watched:
    """A server under load after load."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.report: Row = {}
        self._sent = 0

    def serve(self, count: int, seed: int, leaving: bool = False) -> tuple[int, float]:
        """Requests lost, and the longest step [s]; with `leaving`, every other client goes early, unmourned."""
        known = len(self.report.get("steps", []))
        leaves = dict.fromkeys(range(0, count, 2), LEAVES_AFTER) if leaving else {}
        load, told = self.serve_all(count, seed, leaves)
        stay = [number for number in range(count) if number not in leaves]
        longest_s = max(step[OWN] for step in self.report["steps"][known:])
        return lost([load[n] for n in stay], [told[n] for n in stay]), longest_s

    def serve_all(self, count: int, seed: int, leaves: Mapping[int, int] | None = None) -> tuple[list[Ask], list[Told]]:
        """So many requests at once, and what came back; `report` is the probe's afterwards."""
        load = [ask._replace(arrival_s=0.0) for ask in asks(count, seed, 1.0)]
        told = send(self.server.url, load, leaves=leaves)
        self.skip(count)
        self.report = self.server.report(self._sent)
        return load, told

    def skip(self, requests: int) -> None:
        """So many requests went by beside these loads."""
        self._sent += requests

    def wait_for_child(self) -> int:
        """Serve a little until the solver child is there; its process."""
        deadline_s = time.monotonic() + CHILD_TIMEOUT_S
        while not self.report or self.report["child"] is None:
            if time.monotonic() > deadline_s:
                raise RuntimeError("the plugin started no solver")
            self.serve(1, 99)
            time.sleep(0.5)
        return int(self.report["child"])


def disconnects(watched: Watched, switch: Path) -> Row:
    """Half of the clients go in the middle; with vLLM alone, and with the plugin."""
    switch.touch()
    _, plain_s = watched.serve(REQUESTS, 0, leaving=True)
    switch.unlink()
    gone, ours_s = watched.serve(REQUESTS, 0, leaving=True)
    begin_s = time.monotonic()
    after, _ = watched.serve(1, 99)
    return {
        "met": True,
        "lost": gone + after,
        "longest_step_s": ours_s,
        "plain_longest_step_s": plain_s,
        "recovery_s": time.monotonic() - begin_s,
    }


def kill_engine(watched: Watched, folder: Path) -> Row:
    """Kill the engine's own process by force; what is left of the plugin's doing, and when it was gone."""
    child = watched.wait_for_child()
    engine = psutil.Process(child).ppid()
    sockets = list(folder.glob("kvhorizon-*"))
    assert sockets, "the solver child has a folder of its own"
    os.kill(engine, signal.SIGKILL)
    begin_s = time.monotonic()
    while (alive(child) or any(one.exists() for one in sockets)) and time.monotonic() - begin_s < 30.0:
        time.sleep(0.01)
    gone_s = time.monotonic() - begin_s
    watched.server.stop()
    return {"gone_s": gone_s, "left_behind": sum(one.exists() for one in folder.glob("kvhorizon-*")) + alive(child)}


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
