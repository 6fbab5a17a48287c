"""The stub planner of the service's tests, as a child process runs it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "tests" / "service"


@pytest.fixture(scope="session")
def stub_module():
    """Name of a module that serves the stub planner; importable by child processes while the tests run."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(STUBS), str(ROOT), *([before] if before else [])])
    yield "stub_planner"
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
