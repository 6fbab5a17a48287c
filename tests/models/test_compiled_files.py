"""Compiled code is found again only by what it was made of."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvhorizon.compiled import files as compiled_files
from kvhorizon.compiled.files import KEPT_S, PACKAGE, Locator, made_of
from kvhorizon.compiled.folders import Places
from kvhorizon.solver.heuristic.order import best_place

CALLEE = "from kvhorizon.compiled.compiler import compiled\n\n@compiled\ndef one():\n    return {value}\n"
CALLER = "from kvhorizon.models.{name} import one\nfrom kvhorizon.compiled.compiler import compiled\n\n"
CALLER += "@compiled\ndef {name}_caller():\n    return 10 + one()\n"
REMEMBERED = made_of, compiled_files.source_of, compiled_files._classes


def copied(folder: Path) -> Path:
    """A package with nothing but what compiles, and two files of functions; returns its folder of models."""
    models = folder / "kvhorizon" / "models"
    models.mkdir(parents=True)
    (folder / "kvhorizon" / "__init__.py").touch()
    (folder / "kvhorizon" / "errors.py").write_text((PACKAGE / "errors.py").read_text())
    (models / "__init__.py").touch()
    compiled = folder / "kvhorizon" / "compiled"
    shutil.copytree(PACKAGE / "compiled", compiled, ignore=shutil.ignore_patterns("__pycache__"))
    (models / "callee.py").write_text(CALLEE.format(value=1))
    (models / "caller.py").write_text(CALLER.format(name="callee"))
    return models


def test_a_change_in_a_callee_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    """numba alone would go on with 11: the file that holds the caller is the same."""
    models = copied(tmp_path)
    program = "from kvhorizon.models.caller import callee_caller as f; print(f(), sum(f.stats.cache_hits.values()))"

    def called() -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert called() == ["11", "0"]
    assert called() == ["11", "1"]
    before = (models / "callee.py").stat()
    (models / "callee.py").write_text(CALLEE.format(value=2))
    os.utime(models / "callee.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert called() == ["12", "0"]


def test_only_what_a_function_is_made_of_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = copied(tmp_path)
    (models / "far.py").write_text(CALLER.format(name="caller").replace("import one", "import callee_caller as one"))
    monkeypatch.setattr(compiled_files, "PACKAGE", tmp_path / "kvhorizon")

    def digests() -> list[str]:
        for remembered in REMEMBERED:
            remembered.cache_clear()
        return [made_of(models / f"{name}.py") for name in ("callee", "caller", "far")]

    first = digests()
    (models / "other.py").write_text("unrelated = 1\n")
    assert digests() == first
    (models / "caller.py").write_text((models / "caller.py").read_text() + "\n")
    second = digests()
    assert [one == two for one, two in zip(first, second, strict=True)] == [True, False, False]
    (models / "callee.py").write_text(CALLEE.format(value=3))
    assert all(one != two for one, two in zip(second, digests(), strict=True))
    third = digests()
    (models / "other.py").write_text("class Moved(NamedTuple):\n    field: int\n")
    assert all(one != two for one, two in zip(third, digests(), strict=True))
    for remembered in REMEMBERED:
        remembered.cache_clear()


def test_what_is_compiled_here_is_kept_so_and_nothing_else() -> None:
    function: Any = SimpleNamespace(__qualname__="f", __code__=SimpleNamespace(co_firstlineno=7))
    mine = Locator.from_function(function, str(PACKAGE / "solver" / "heuristic" / "admission.py"))
    assert mine is not None
    assert mine.get_disambiguator() == f"7.{made_of(PACKAGE / 'solver' / 'heuristic' / 'admission.py')}"
    assert Locator.from_function(function, json.__file__) is None
    assert made_of(PACKAGE / "solver" / "heuristic" / "order.py") in best_place._cache._cache_file._index_name


def test_what_has_long_been_made_of_other_sources_goes(tmp_path: Path) -> None:
    function = SimpleNamespace(__qualname__="f", __code__=SimpleNamespace(co_firstlineno=7))
    locator = Locator(Places((tmp_path,), tmp_path), function, PACKAGE / "solver" / "heuristic" / "admission.py")
    old, new = tmp_path / "admission.f-7.aaaa.py311.nbi", tmp_path / "admission.f-7.bbbb.py311.1.nbc"
    mine, other = (
        tmp_path / f"admission.f-7.{locator.get_source_stamp()}.py311.nbi",
        tmp_path / "admission.g-7.cccc.py311.nbi",
    )
    for file in (old, new, mine, other):
        file.touch()
    for file in (old, mine, other):
        os.utime(file, (0.0, 0.0))
    assert KEPT_S > 3600.0
    locator.ensure_cache_path()
    assert sorted(tmp_path.iterdir()) == sorted([new, mine, other])
