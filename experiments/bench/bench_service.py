"""Many engines, one machine: sixteen engines of 256 running and 512 waiting requests ask one service of two workers.

Each engine's states are recorded beforehand, planned for in this process, and sent as the updates that a live engine
would send, ten a second, by the clock; so what is measured is the service, not the making of the load. A session that
a full worker refuses connects anew, as a live engine does. An update that comes while the last is planned for replaces
what waits, so a slow service shows in fewer plans.

engines_16_ticks_per_s       plans per second of the slowest engine
engines_16_p99_ms            from sending an update to receiving its plan
engines_16_program_share     share of the plans that are the program's
engines_16_gap_p50           (cost − bound) / bound in %, by the plan's own bound
"""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np

from experiments.bench._ticks import STEPS_PER_TICK, Ticks
from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.solver.program.search.planner import Budget, Planner, PlannerSettings
from kvhorizon.state import Snapshot, Source
from kvhorizon.wire.channel import connect
from kvhorizon.wire.convert import encode_snapshot
from kvhorizon.wire.delta import encode_delta
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.v1 import scheduler_pb2_grpc as stubs

SEED = 0
ENGINES, RUNNING, WAITING = 16, 256, 512
WORKERS = 2
TICKS_PER_S = 10.0
SECONDS, QUICK_SECONDS = 20, 4
WARM_TICKS = 10  # of each engine, not counted
BUDGET_S = 0.004
RECORDING_WORK = 40
assert STEPS_PER_TICK * 0.02 * TICKS_PER_S == 1.0


@dataclass
class Session:
    """One engine's updates, and what came back."""

    updates: list[pb.Update]
    sent_s: dict[int, float] = field(default_factory=dict)  # by revision
    plans: list[tuple[int, float, pb.Plan]] = field(default_factory=list)  # revision, when it came, plan


def record(seed: int, ticks: int) -> list[pb.Update]:
    """What a live engine would send: everything once, then differences."""
    engine = Ticks(seed, RUNNING, WAITING, ("chat", "mixed")[seed % 2])
    planner = Planner(PlannerSettings(), lambda: 0.0)
    updates: list[pb.Update] = []
    last: Snapshot | None = None
    for _ in range(ticks):
        snapshot = engine.snapshot()
        if last is None:
            updates.append(pb.Update(open=pb.Open(snapshot=encode_snapshot(snapshot))))
        else:
            updates.append(pb.Update(delta=encode_delta(last, snapshot)))
        last = snapshot
        engine.advance(planner.plan(snapshot, Budget(work=RECORDING_WORK)))
    return updates


def play(session: Session, address: str, begin_s: float) -> None:
    """Send the updates by the clock and take the plans."""

    def paced() -> Iterator[pb.Update]:
        for tick, update in enumerate(session.updates):
            time.sleep(max(begin_s + tick / TICKS_PER_S - time.perf_counter(), 0.0))
            session.sent_s[tick + 1] = time.perf_counter()
            yield update
        time.sleep(1.0)  # for the last plan

    while not session.plans:
        with connect(address) as channel:
            try:
                for plan in stubs.PlannerStub(channel).Session(paced()):  # type: ignore[no-untyped-call]
                    session.plans.append((plan.based_on_revision, time.perf_counter(), plan))
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:  # type: ignore[attr-defined]
                    raise


@contextmanager
def service(arguments: Sequence[str]) -> Iterator[str]:
    """A service of several workers in a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    code = f"from kvhorizon.service.workers import run_workers; run_workers({address!r}, {[list(arguments)] * WORKERS})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield address
        finally:
            process.terminate()


def run(ticks: int) -> list[Session]:
    """All engines at once, their ticks spread over the interval."""
    sessions = [Session(record(SEED + number, WARM_TICKS + ticks)) for number in range(ENGINES)]
    gc.collect()
    gc.freeze()
    with service(["--budget-s", str(BUDGET_S), "--candidates", str(WAITING)]) as address:
        begin_s = time.perf_counter() + 1.0
        threads = [
            threading.Thread(target=play, args=(session, address, begin_s + n / (ENGINES * TICKS_PER_S)))
            for n, session in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sessions


def measure(options: Options) -> tuple[Figures, Targets]:
    """Latency, rate and quality over all engines."""
    seconds = QUICK_SECONDS if options.quick else SECONDS
    ticks = int(seconds * TICKS_PER_S)
    sessions = run(ticks)
    per_engine, latency_ms, by_program, gaps = [], [], [], []
    for session in sessions:
        counted = [entry for entry in session.plans if entry[0] > WARM_TICKS]
        per_engine.append(len(counted) / seconds)
        for revision, came_s, plan in counted:
            latency_ms.append(1e3 * (came_s - session.sent_s[revision]))
            by_program.append(plan.source == Source.PROGRAM)
            if plan.HasField("bound") and plan.bound > 0.0:
                gaps.append(100.0 * (plan.objective - plan.bound) / plan.bound)
    figures = {
        "plans": len(latency_ms),
        "p50_ms": float(np.median(latency_ms)),
        "gap_p90": float(np.percentile(gaps, 90)),
    }
    return figures, {
        "engines_16_ticks_per_s": target(round(min(per_engine), 3), f">={TICKS_PER_S:g}"),
        "engines_16_p99_ms": target(float(np.percentile(latency_ms, 99)), "<=60"),
        "engines_16_program_share": target(float(np.mean(by_program)), ">=0.99"),
        "engines_16_gap_p50": target(float(np.median(gaps)), "<=2"),
    }


if __name__ == "__main__":
    main("bench_service", SEED, measure)
