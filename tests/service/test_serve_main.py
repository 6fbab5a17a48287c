"""The service as a process: its arguments, its first lines, its end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from stub_planner import StubPlanner

from kvhorizon.service.main import main
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.client import Client
from kvhorizon.wire.validate import check_snapshot

STUB = Path(__file__).parent / "stub_planner.py"


def test_it_prints_where_it_listens_and_ends_well_on_sigint():
    command = [sys.executable, str(STUB), "--listen", "127.0.0.1:0", "--metrics-port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(STUB.parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = process.stdout.readline().split()[-1]
        port = process.stdout.readline().split()[-1]
        with Client(address) as client:
            assert client.ready()
            assert client.plan_once(sample_snapshot()).based_on_revision == 1
        assert b"kvhorizon_plans_total" in urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_an_address_that_cannot_be_bound_is_one_line_and_status_2(capsys):
    assert main(["--listen", "nowhere"], StubPlanner) == 2
    assert capsys.readouterr().err.endswith("address='nowhere', must be host:port or unix:/path\n")


def test_two_budgets_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--work", "3", "--budget-s", "1"], StubPlanner)
    assert re.search("not allowed with argument", capsys.readouterr().err)


def test_a_budget_out_of_range_is_one_line_and_status_2(capsys):
    assert main(["--budget-s", "-1"], StubPlanner) == 2
    assert capsys.readouterr().err.endswith("budget.seconds=-1.0, must be > 0 and <= 60\n")


def test_the_engine_that_warms_up_is_a_valid_one():
    check_snapshot(sample_snapshot())
