"""Compiled code on disk, under names that say of which sources it was made, and by which numba.

numba itself goes by the time and size of the one file that holds a function. That keeps code whose callees in other
files have changed, as an upgrade may leave it; and two processes of which one is newer may read halves of each other's.
With the sources' digest in the names nothing is ever stale, and what belongs to other sources is not touched. Code also
tells of the tuples that it takes by where their classes are, and cannot be read once one of them has moved.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import numba

from kvhorizon.compiled.folders import Places, places, prepared

_config: Any = numba.config
PACKAGE = Path(__file__).resolve().parents[1]
_IMPORTS = re.compile(r"^(?:from|import) (kvhorizon(?:\.\w+)+)", re.MULTILINE)
_TUPLES = re.compile(r"^class (\w+)\(NamedTuple\)", re.MULTILINE)
_COMPILES = f"{__package__}.compiler "  # as a file of compiled functions imports it
_DIGITS = 10
KEPT_S = 86400.0  # code of other sources, which another process or environment may use


class _Source(NamedTuple):
    """What is wanted of one file."""

    digest: bytes
    imports: frozenset[Path]  # modules of this package, whole or in part
    compiles: bool
    tuples: list[str]  # classes of named tuples in it


@functools.cache
def source_of(file: Path) -> _Source:
    content = file.read_bytes()
    text = content.decode("utf-8", errors="ignore")
    paths = (PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py") for module in _IMPORTS.findall(text))
    imports = frozenset(path for path in paths if path.is_file())
    return _Source(hashlib.sha256(content).digest(), imports, _COMPILES in text, _TUPLES.findall(text))


@functools.cache
def made_of(file: Path) -> str:
    """Digest of what a file's compiled functions are made of: its text, that of its imports, and so on from those of
    them that hold compiled functions themselves."""
    found = hashlib.sha256(f"{numba.__version__} {_classes()}".encode())
    for source in sorted(_sources(file)):
        found.update(source_of(source).digest)
    return found.hexdigest()[:_DIGITS]


def _sources(file: Path) -> set[Path]:
    found, open_files = {file}, [file]
    while open_files:
        for imported in source_of(open_files.pop()).imports - found:
            found.add(imported)
            if source_of(imported).compiles:
                open_files.append(imported)
    return found


@functools.cache
def _classes() -> str:
    """Where this package's named tuples are."""
    named = {path: source_of(path).tuples for path in sorted(PACKAGE.rglob("*.py"))}
    return str([(str(path.relative_to(PACKAGE)), *names) for path, names in named.items() if names])


class Locator:
    """numba's interface of a place where a function's code is kept."""

    def __init__(self, found: Places, function: Any, file: Path) -> None:
        self.places, self._made_of = found, made_of(file)
        self._line = function.__code__.co_firstlineno
        self._files = f"{file.stem}.{function.__qualname__}-*.nb?"  # of all versions
        self._py_file = str(file)  # for numba's warnings

    @classmethod
    def from_function(cls, function: Any, file: str) -> Locator | None:
        """For what is compiled as here; None leaves all else to numba."""
        path = Path(file).resolve()
        if not path.is_file() or not source_of(path).compiles:
            return None
        return cls(places(path.parent, _config.CACHE_DIR), function, path)

    def ensure_cache_path(self) -> None:
        """Make the folder, before something is kept there; what has long been made of other sources goes.

        Raises OSError where there is none that is private."""
        if self.places.write is None or not prepared(self.places.write):
            raise PermissionError(13, "must be a folder that only its owner may write", self.get_cache_path())
        for other in self.places.write.glob(self._files):
            with contextlib.suppress(OSError):  # another process may be before us
                if self._made_of not in other.name and time.time() - other.stat().st_mtime > KEPT_S:
                    other.unlink()

    def get_cache_path(self) -> str:
        """The folder in which new code is kept; empty where there is none."""
        return str(self.places.write or "")

    def get_source_stamp(self) -> str:
        """What an index of code has to be made of to be of use."""
        return self._made_of

    def get_disambiguator(self) -> str:
        """Part of all file names of the function: its line and its sources."""
        return f"{self._line}.{self._made_of}"
