"""Several processes behind one port, and several services behind one address: sessions spread, and fail over."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvhorizon.adapter.planning.shared import SharedSolver
from kvhorizon.errors import InputError
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.service.workers import SESSIONS_EACH, check_shared, run_workers
from kvhorizon.wire.client import Client

RECOVERY_S = 60.0  # a replaced process loads its compiled code first, beside the other tests


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kvhorizon", "serve", "--budget", "5ms", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        yield process
    finally:
        process.terminate()
        assert process.wait(30) == 0


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    """Its children that serve."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return {int(pid) for pid in listed.stdout.split()}


def until_planned(solver: SharedSolver, revision: int) -> float:
    """Seconds until it plans again."""
    began_s = time.monotonic()
    while solver.plan(sample_snapshot(revision)) is None:
        assert time.monotonic() - began_s < RECOVERY_S
        time.sleep(0.05)
        revision += 1
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
def two_workers() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    address = f"127.0.0.1:{free_port()}"
    with serving("--listen", address, "--workers", "2") as process:
        yield address, process


def test_full_workers_send_engines_on_until_all_have_a_place(two_workers: tuple[str, subprocess.Popen[str]]) -> None:
    solvers = [SharedSolver(two_workers[0]) for _ in range(2 * SESSIONS_EACH)]
    try:
        for solver in solvers:
            until_planned(solver, 1)
        assert all(solver.plan(sample_snapshot(1000)) is not None for solver in solvers)
    finally:
        for solver in solvers:
            solver.stop()


def test_a_killed_worker_is_replaced_and_its_engines_are_planned_for(
    two_workers: tuple[str, subprocess.Popen[str]],
) -> None:
    address, process = two_workers
    before = workers_of(process)
    assert len(before) == 2
    solver = SharedSolver(address)
    try:
        until_planned(solver, 1)
        os.kill(min(before), signal.SIGKILL)
        until_planned(solver, 1000)
        deadline_s = time.monotonic() + RECOVERY_S
        while len(now := workers_of(process)) < 2 or now == before:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        until_planned(solver, 2000)
    finally:
        solver.stop()


def test_the_workers_end_with_the_service() -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "kvhorizon", "serve", "--budget", "10", "--listen", address, "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline_s = time.monotonic() + 10.0
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_second_service_behind_the_address_takes_over() -> None:
    """As an ordinary gRPC client does with several addresses: the next, when the first is gone; state is sent anew."""
    ports = free_port(), free_port()
    with serving("--listen", f"127.0.0.1:{ports[0]}") as first, serving("--listen", f"127.0.0.1:{ports[1]}"):
        solver = SharedSolver(f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}")
        try:
            until_planned(solver, 1)
            first.send_signal(signal.SIGTERM)
            first.wait(30)
            assert until_planned(solver, 1000) < 20.0
            with Client(f"127.0.0.1:{ports[1]}") as other:
                assert other.ready()
        finally:
            solver.stop()


@pytest.mark.parametrize("listen", ["unix:/tmp/kvhorizon-no-workers.sock", "127.0.0.1:0"])
def test_workers_need_a_port(listen: str) -> None:
    with pytest.raises(InputError, match="port of its own"):
        run_workers(listen, [[], []])


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=re.escape("cannot be bound")):
            check_shared(f"127.0.0.1:{taken.getsockname()[1]}")
