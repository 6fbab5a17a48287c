"""A live engine core with solvers that can be broken: a child of its own, then a shared service over mutual TLS."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
import time

from experiments.common._scratch import scratch
from experiments.live.faults._live_core import LiveCore, wait_for_plans
from experiments.live.faults._live_planner import MOOD
from experiments.live.faults._live_tls import HOST, Authority
from experiments.live.serving._live_server import ROOT, free_port
from kvhorizon.adapter.planning.session import PlanSession, SolverLike
from kvhorizon.adapter.planning.shared import SharedSolver
from kvhorizon.adapter.planning.solvers import PLAN_DEADLINE_S
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.resilient import ResilientSolver

START_TIMEOUT_S = 240.0


class Bench:
    """`live` is the engine. Its plugin reads clocks that can be put wrong, and follows whichever solver it is given."""

    def __init__(self) -> None:
        self.folder = scratch("faults")
        self.mood = self.folder / "mood"
        os.environ[MOOD] = str(self.mood)
        self.live = LiveCore({"local_only": True, "record": str(self.folder / "recording")})
        self.wall_ahead_s = self.steady_ahead_s = 0.0
        self.met = 0  # times that planted errors were raised
        self.live.plugin.use_clock(
            lambda: time.monotonic() + self.steady_ahead_s, lambda: time.time() + self.wall_ahead_s
        )
        self.live.under_load(50)
        self.child: ResilientSolver | None = None
        self.shared: SharedSolver | None = None
        self.authority = Authority()
        self._port = free_port()
        self._service: subprocess.Popen[bytes] | None = None

    def use_child(self) -> None:
        """The zero-configuration way, with a planner that may have moods."""
        make = functools.partial(SolverChild, [], START_TIMEOUT_S, "experiments.live.faults._live_planner")
        self.child = ResilientSolver(make, PLAN_DEADLINE_S)
        self._follow(self.child)

    def use_service(self) -> None:
        """A shared service in a process of its own."""
        self.authority.write(self.folder / "service")
        self.start_service()
        self.shared = SharedSolver(
            f"{HOST}:{self._port}", self.authority.write(self.folder / "client"), PLAN_DEADLINE_S
        )
        self._follow(self.shared)
        self.child = None

    def start_service(self) -> None:
        """`kvhorizon serve`; returns at once."""
        tls = self.folder / "service"
        options = ["--tls-cert", tls / "cert.pem", "--tls-key", tls / "key.pem", "--tls-ca", tls / "ca.pem"]
        inherited = os.environ.get("PYTHONPATH")
        self._service = subprocess.Popen(
            [sys.executable, "-m", "kvhorizon", "serve", "--listen", f"{HOST}:{self._port}", *map(str, options)],
            env={**os.environ, "PYTHONPATH": str(ROOT) if not inherited else os.pathsep.join([str(ROOT), inherited])},
            stdout=subprocess.DEVNULL,
        )

    def signal_service(self, number: int) -> None:
        """To the service's process, which is there."""
        assert self._service is not None
        self._service.send_signal(number)

    def kill_service(self) -> None:
        """By force."""
        if self._service is not None:
            self._service.kill()
            self._service.wait()
            self._service = None

    def close(self) -> None:
        """Everything ends."""
        self.live.close()
        self.kill_service()

    def _follow(self, solver: SolverLike) -> None:
        """Another solver for the plugin; returns when its plans are followed."""
        plugin = self.live.plugin
        assert plugin.session is not None
        plugin.session.stop()
        plugin.session = PlanSession(solver)
        plugin.session.start()
        begin_s = time.monotonic()
        while wait_for_plans(self.live, 1.0) == math.inf:
            gone = self._service is not None and self._service.poll() is not None
            if not gone and time.monotonic() - begin_s < START_TIMEOUT_S:
                continue
            raise RuntimeError(f"no plan within {START_TIMEOUT_S} s: {solver.counts}")
