"""Tests against the real vLLM: without it they are skipped, and say so."""

import importlib.util
import os
import tomllib
from pathlib import Path

import pytest

GROUP = "vllm.stat_logger_plugins"
for name, value in {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}.items():
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the entry points of `pyproject.toml` as if installed just now; the environment's may be older."""
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    info = tmp_path_factory.mktemp("site") / "kvhorizon_under_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kvhorizon-under-test\nVersion: 0\n")
    ((name, value),) = project["entry-points"][GROUP].items()
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
    return str(info.parent)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed: `make engine` sets it up"))
