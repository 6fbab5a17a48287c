"""Which solver an engine asks, and what becomes of it where there can be none."""

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kvhorizon
from kvhorizon.adapter import factory as start
from kvhorizon.adapter.planning.host import HostSolver, meeting_name
from kvhorizon.adapter.planning.solvers import child_options, make_solver
from kvhorizon.adapter.settings import PluginSettings
from kvhorizon.errors import InputError
from kvhorizon.wire.resilient import ResilientSolver

TWO: Any = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_size=2))
SETTINGS = PluginSettings()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data-parallel engines meet; not made yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    package = Path(kvhorizon.__file__).resolve().parent
    return tmp_path / meeting_name(package, os.getuid(), child_options(SETTINGS))


def test_data_parallel_engines_share_a_child(place: Path) -> None:
    assert isinstance(make_solver(SETTINGS, TWO), HostSolver)
    assert place.is_dir()


@pytest.mark.parametrize("kind", ["open", "file", "link", "gone"])
def test_without_a_private_place_to_meet_each_has_its_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    if kind == "open":
        place.mkdir()
        place.chmod(0o777)
    elif kind == "file":
        place.touch()
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert isinstance(make_solver(SETTINGS, TWO), ResilientSolver)
    (line,) = caplog.messages
    assert line.startswith("kvhorizon starts a solver for this engine alone: ")
    assert not [record for record in caplog.records if record.exc_info]


def test_a_wrong_setting_is_said_and_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tls_key"):
        start._solver(PluginSettings(solver="localhost:1", tls_cert=tmp_path / "no.pem"), TWO)


def test_where_gRPC_cannot_be_imported_there_is_no_solver(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("kvhorizon.wire", "kvhorizon.adapter.planning.solvers"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("kvhorizon.adapter.planning.host", "kvhorizon.adapter.planning.shared"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert start._solver(SETTINGS, TWO) is None
    (line,) = caplog.messages
    assert line.startswith("kvhorizon decides by the rules beside the engine alone: ModuleNotFoundError")
