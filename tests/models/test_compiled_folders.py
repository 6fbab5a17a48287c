"""Compiled code is read from, and kept in, folders only that no other user can change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvhorizon.compiled import folders as compiled_folders
from kvhorizon.compiled.files import PACKAGE
from kvhorizon.compiled.folders import is_private, places, prepared

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
OTHER = 65533
CALLED = "from kvhorizon.models.pages import pages; f = pages; print(f(40, 16), sum(f.stats.cache_hits.values()))"
PAGES = "from kvhorizon.compiled.compiler import compiled\n\n@compiled\ndef pages(n, k):\n    return -(-n // k)\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one compiled function and nothing beside it that could be written."""
    models = tmp_path / "kvhorizon" / "models"
    models.mkdir(parents=True)
    for path in ("__init__.py", "models/__init__.py"):
        (tmp_path / "kvhorizon" / path).touch()
    (tmp_path / "kvhorizon" / "errors.py").write_text((PACKAGE / "errors.py").read_text())
    compiled = tmp_path / "kvhorizon" / "compiled"
    shutil.copytree(PACKAGE / "compiled", compiled, ignore=shutil.ignore_patterns("__pycache__"))
    (models / "pages.py").write_text(PAGES)
    (models / "__pycache__").touch()  # no folder can be made there, not even by root
    return tmp_path


def call(package: Path, program: str = CALLED, **environment: str) -> tuple[str, str]:
    """What the function gives and how often its code was found; what was said."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "HOME": "/dev/null", **environment}
    if "TMPDIR" not in environment:  # Python falls back to its own
        program = f"import tempfile; tempfile.tempdir = '/dev/null'; {program}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def test_without_any_folder_it_is_compiled_afresh_and_said_once(package: Path) -> None:
    bad = package / "file"
    bad.touch()
    for _ in range(2):
        given, said = call(package, NUMBA_CACHE_DIR=str(bad), HOME=str(bad), XDG_CACHE_HOME=str(bad))
        assert given == "3 0"
        assert said == "kvhorizon compiles afresh at each start: no private folder for its code (set NUMBA_CACHE_DIR)"


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "TMPDIR"])
def test_each_folder_of_the_user_s_keeps_it(package: Path, tmp_path: Path, variable: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    assert call(package, **{variable: str(folder)}) == ("3 0", "")
    assert call(package, **{variable: str(folder)}) == ("3 1", "")
    made = [path for path in folder.rglob("*") if path.is_dir()]
    assert made
    assert all(path.stat().st_mode & 0o077 == 0 for path in made)


@pytest.mark.parametrize("change", ["mode", pytest.param("owner", marks=needs_root)])
def test_code_that_another_user_may_have_written_is_not_read(package: Path, tmp_path: Path, change: str) -> None:
    """The folder held our own code; it could be anything by now."""
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    assert call(package, NUMBA_CACHE_DIR=str(folder))[0] == "3 0"
    (inner,) = folder.iterdir()
    if change == "mode":
        inner.chmod(0o777)
    else:
        os.chown(inner, OTHER, OTHER)
    assert call(package, NUMBA_CACHE_DIR=str(folder))[0] == "3 0"


def test_damaged_code_is_compiled_afresh_and_replaced(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    call(package, NUMBA_CACHE_DIR=str(folder))
    for ending in ("nbi", "nbc"):
        for path in folder.rglob(f"*.{ending}"):
            path.write_bytes(path.read_bytes()[:20])
        assert call(package, NUMBA_CACHE_DIR=str(folder))[0] == "3 0"
        assert call(package, NUMBA_CACHE_DIR=str(folder))[0] == "3 1"


def test_a_full_disk_is_said_once_and_costs_nothing_else(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); " + CALLED + "; print(f(1.5, 2.0))"
    given, said = call(package, full, NUMBA_CACHE_DIR=str(folder))
    assert given.split() == ["3", "0", "1.0"]
    assert said == "kvhorizon cannot keep compiled code: File too large"


def test_what_is_only_readable_is_read_and_new_code_goes_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, home = tmp_path / "models", tmp_path / "home"
    (sources / "__pycache__").mkdir(parents=True)
    home.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    writable = places(sources)
    assert writable.read == (writable.write,) == (sources / "__pycache__",)
    in_tree = sources / "__pycache__"
    monkeypatch.setattr(compiled_folders, "_allows", lambda folder, what: folder != in_tree or what != os.W_OK)
    places.cache_clear()
    found = places(sources)
    assert found.read[0] == in_tree
    assert found.write is not None
    assert found.write == found.read[-1]
    assert found.write.is_relative_to(home / "kvhorizon")
    places.cache_clear()


@pytest.mark.parametrize(
    ("above", "inside", "private"),
    [(0o755, 0o700, True), (0o1777, 0o700, True), (0o777, 0o700, False), (0o755, 0o770, False), (0o755, 0o755, True)],
)
def test_a_folder_is_private_if_no_other_user_can_change_it_or_its_place(
    tmp_path: Path, above: int, inside: int, private: bool
) -> None:
    (tmp_path / "above" / "inside").mkdir(parents=True)
    (tmp_path / "above" / "inside").chmod(inside)
    (tmp_path / "above").chmod(above)
    assert is_private(tmp_path / "above" / "inside") is private


def test_nothing_is_made_where_another_user_could_move_it(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert not prepared(tmp_path / "open" / "one" / "two")
    assert list((tmp_path / "open").iterdir()) == []
    assert not prepared(tmp_path / "no" / ("n" * 300))


@needs_root
def test_a_link_to_another_user_s_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", OTHER, OTHER)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    assert not is_private(tmp_path / "link")


def test_a_folder_that_is_opened_while_the_process_runs_is_left_alone(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    program = "import os, pathlib; from kvhorizon.models.pages import pages as f; f(40, 16); "
    program += "folder = pathlib.Path(os.environ['NUMBA_CACHE_DIR']); [one.chmod(0o777) for one in folder.iterdir()]; "
    program += "f(1.5, 2.0); print(len(list(folder.rglob('*.nbc'))))"
    given, said = call(package, program, NUMBA_CACHE_DIR=str(folder))
    assert given == "1"
    assert said == "kvhorizon cannot keep compiled code: must be a folder that only its owner may write"
