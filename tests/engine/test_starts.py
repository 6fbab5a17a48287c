"""Whatever of the plugin's start fails, vLLM starts and serves: as another user, in a process of its own."""

import os
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.live.starts import KINDS, Site, started_share

if os.geteuid() != 0:
    pytest.skip("SKIPPED: only root can start an engine as another user", allow_module_level=True)

SAID: dict[str, list[str]] = {
    "no_home": [],
    "read_only_package": [],
    "foreign_folders": ["compiles afresh at each start", "starts a solver for this engine alone"],
    "damaged_state": ["begins without what it had learned"],
    "full_disk": ["records nothing", "cannot keep what it learned"],
    "no_cache_folder": ["compiles afresh at each start"],
    "no_child": ["has no solver yet"],
    "port_taken": ["cannot be asked on"],
    "broken_wire": ["by the rules beside the engine alone"],
    "broken_compiler": ["could not be imported, vLLM goes on alone"],
}
ALONE = {"broken_compiler"}


@pytest.fixture(scope="module")
def site() -> Site:
    """One for all, so that all but the first find compiled code, where they may."""
    found = Site()
    try:
        assert found.as_user
    except RuntimeError as error:
        pytest.skip(f"SKIPPED: {error}")
    return found


def test_every_kind_says_something_of_its_own() -> None:
    assert set(SAID) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_engines_start_and_serve(site: Site, kind: str) -> None:
    with ExitStack() as stack:
        found: dict[str, Any] = KINDS[kind](site, stack)
    assert found["status"] == 0, found["stderr"]
    assert {engine["data_parallel"] for engine in found["engines"]} == {1, 2}
    assert started_share(found) == 1.0
    assert found["tracebacks"] == 0, found["stderr"]
    assert all(engine["plugin"] is (kind not in ALONE) for engine in found["engines"])
    for part in SAID[kind]:
        assert any(part in line for line in found["lines"]), found["lines"]
    if kind == "no_home":
        assert all(engine["planned"] for engine in found["engines"])
