"""Where compiled code may be kept: in folders that only this user and root can change.

numba reads its files with `pickle`, so whoever can write one runs code in every process that reads it. A folder counts
only if it and all folders above it belong to this user or root and no other user may write them (one above may be open
to all where it is sticky, as the directory for temporary files is). Where there is none, code is compiled afresh.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

IN_TREE = "__pycache__"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Places(NamedTuple):
    """For the functions of one source folder."""

    read: tuple[Path, ...]  # looked through in this order
    write: Path | None  # the last of them, or None where nothing can be kept


@functools.cache
def places(sources: Path, chosen: str = "") -> Places:
    """Folders for what is compiled of `sources`; `chosen` is what NUMBA_CACHE_DIR names, empty where it names nothing.

    A folder that may only be read serves as well, as an image's whose code was compiled when it was built; what is not
    found there is kept in the next one that may be written.
    """
    read: list[Path] = []
    for folder in _candidates(sources, chosen):
        if prepared(folder) and _allows(folder, os.R_OK):
            read.append(folder)
            if _allows(folder, os.W_OK):
                return Places(tuple(read), folder)
    return Places(tuple(read), None)


def _candidates(sources: Path, chosen: str) -> Iterator[Path]:
    """The user's choice, beside the sources, the user's cache, and a folder of the user's among the temporary ones."""
    below = f"{sources.name}_{hashlib.sha1(str(sources).encode(), usedforsecurity=False).hexdigest()}"  # numba's
    if chosen:
        yield Path(chosen) / below
    yield sources / IN_TREE
    cache = _user_cache()
    if cache is not None:
        yield cache / "kvhorizon" / below
    with suppress(OSError):  # a full disk has none
        yield Path(tempfile.gettempdir()) / f"kvhorizon-compiled-{os.geteuid()}" / below


def _user_cache() -> Path | None:
    """By the XDG base directory specification; None for a user without a home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named)
    home = os.environ.get("HOME", "")
    with suppress(KeyError):  # a number that no user has
        home = home or pwd.getpwuid(os.geteuid()).pw_dir
    return Path(home) / ".cache" if os.path.isabs(home) and os.path.isdir(home) else None


def is_private(folder: Path) -> bool:
    """Whether only this user and root can change what is in the folder, or put another in its place."""
    try:
        found = folder.resolve(strict=True)
        return _ours(found.stat(), _OTHERS_WRITE) and all(_above(one.stat()) for one in found.parents)
    except (OSError, RuntimeError):  # not there, not to be seen, or a circle of links
        return False


def prepared(folder: Path) -> bool:
    """Make the folder and what is missing above it, for this user alone; whether it is private then. Never raises."""
    with suppress(OSError):
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        if missing:
            there = missing[-1].parent.resolve(strict=True)
            if not all(_above(one.stat()) for one in (there, *there.parents)):
                return False
        for one in reversed(missing):
            one.mkdir(mode=0o755 if one.name == IN_TREE else 0o700, exist_ok=True)
    return is_private(folder)


def _above(found: os.stat_result) -> bool:
    return _ours(found, 0 if found.st_mode & stat.S_ISVTX else _OTHERS_WRITE)


def _ours(found: os.stat_result, forbidden: int) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & forbidden


def _allows(folder: Path, what: int) -> bool:
    return os.access(folder, what | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
