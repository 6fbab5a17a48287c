"""The solver child: real processes that serve, stop, crash and are orphaned."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import SolverUnavailable

SLOW_S = 669.0  # the stub plans for 0.3 s at this moment

PARENT = """
import sys, time
from kvhorizon.wire.child import SolverChild
child = SolverChild(module="stub_planner")
child.start()
print(child.pid, child.address, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def child(stub_module):
    with SolverChild(module=stub_module) as started:
        yield started


def gone(pid, limit_s):
    """Whether the process ends, zombies included, within the limit."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_it_serves_on_a_private_socket(child):
    socket = Path(child.address.removeprefix("unix:"))
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    with Client(child.address) as client:
        np.testing.assert_array_equal(client.plan_once(sample_snapshot()).admissions, np.arange(7, 19))


def test_it_is_a_quiet_neighbour(child):
    """No GPU, one thread per library, lower priority, a session of its own."""
    variables = dict(v.split("=", 1) for v in Path(f"/proc/{child.pid}/environ").read_text().split("\0") if "=" in v)
    assert variables["CUDA_VISIBLE_DEVICES"] == ""
    assert variables["OMP_NUM_THREADS"] == variables["NUMBA_NUM_THREADS"] == "1"
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
    assert os.getsid(child.pid) == child.pid


def test_sigterm_finishes_the_plan_under_way_and_exits_with_zero(stub_module):
    child = SolverChild(module=stub_module)
    child.start()
    answers = []
    with Client(child.address) as client:
        slow = replace(sample_snapshot(3), now_s=SLOW_S)
        asking = threading.Thread(target=lambda: answers.append(client.plan_once(slow)))
        asking.start()
        time.sleep(0.15)
        process = child._process
        process.send_signal(signal.SIGTERM)
        asking.join(5)
        assert process.wait(5) == 0
    assert answers[0].based_on_revision == 3
    folder = Path(child.address.removeprefix("unix:")).parent
    child.stop()
    assert not folder.exists()


def test_a_parent_killed_takes_its_child_along(stub_module):
    """Nothing of it is left within 2 s: no process, no folder."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    pid, address = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    assert gone(int(pid), limit_s=2.0)
    assert not Path(address.removeprefix("unix:")).parent.exists()


def test_the_end_of_the_pipe_ends_the_child(stub_module):
    with SolverChild(module=stub_module) as child:
        child._process.stdin.close()
        assert child._process.wait(2.0) == 0


def test_a_child_that_cannot_start_is_reported():
    child = SolverChild(module="no_such_module")
    with pytest.raises(SolverUnavailable, match="ended with status 1 before it served"):
        child.start()
    assert not child.alive
