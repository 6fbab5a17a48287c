"""A length history in a file, so that a restart does not begin from nothing.

The file is a NumPy archive of plain arrays with a version; reading it executes nothing (no pickles) and allocates no
more than MOST_BYTES, and anything that does not fit is refused with one line. It is written beside its place and then
moved there, so that a crash leaves the old one.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kvhorizon.errors import InputError, in_a_line
from kvhorizon.models.forecast.bins import BINS
from kvhorizon.models.forecast.history.evidence import Evidence
from kvhorizon.models.forecast.history.history import LengthHistory

VERSION = 1
MOST_BYTES = 64 << 20  # unpacked; a file of ours has some 2 MB
_KEPT = ("ended", "capped", "weight", "total", "seen", "parent", "level", "scores")


def save_history(history: LengthHistory, path: Path) -> None:
    """Write all that finished requests taught; what runs at the moment is left out."""
    keys, nodes = history.known()
    used = [0, *nodes.tolist()]
    parts = {name: getattr(history.evidence, name) for name in _KEPT}
    kept = {name: part if name == "scores" else part[used] for name, part in parts.items()}
    place = {node: number for number, node in enumerate(used)}
    kept["parent"] = np.array([place.get(int(node), -1) for node in kept["parent"]], dtype=np.int64)
    packed = io.BytesIO()
    np.savez_compressed(packed, version=np.array(VERSION), keys=keys, **kept)
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_bytes(packed.getbuffer())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def load_history(history: LengthHistory, path: Path) -> None:
    """Put what a file holds into an empty history; the keys used last, if not all have room. Raises InputError for
    whatever is no such file; the history is of no use then."""
    try:
        parts = _read(path)
        if int(parts.get("version", np.array(-1)).flat[0]) != VERSION:
            raise InputError("history", str(path), f"must be of version {VERSION}")
        _check(path, parts, history.evidence)
        history.restore(parts["keys"].astype(np.int64), {name: parts[name] for name in _KEPT})
    except InputError:
        raise
    except Exception as error:  # archives and arrays have any number of ways to be broken
        why = f"must be a readable history file ({in_a_line(error)})"
        raise InputError("history", str(path), why) from None
    if not (np.isfinite(history.survival).all() and np.isfinite(history.residual).all()):
        raise InputError("history", str(path), "must hold counts that give finite curves")


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an archive. Raises InputError where they are too large, and much else where it is broken."""
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
        if sum(one.file_size for one in found) > MOST_BYTES:  # no more than so much is read of each
            raise InputError("history", str(path), f"must unpack to at most {MOST_BYTES} bytes")
        return {one.filename.removesuffix(".npy"): _array(archive.read(one)) for one in found}


def _array(content: bytes) -> NDArray[Any]:
    """As `np.load` without pickles, but nothing is allocated by what the header says."""
    file = io.BytesIO(content)
    if npy.read_magic(file) != (1, 0):
        raise ValueError("an array of another format")
    shape, by_columns, dtype = npy.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    order: Literal["F", "C"] = "F" if by_columns else "C"
    return np.ndarray(shape, dtype, buffer=content, offset=file.tell(), order=order)


def _check(path: Path, parts: dict[str, np.ndarray], evidence: Evidence) -> None:
    size = 1 + len(parts.get("keys", ()))
    shapes = {"keys": (size - 1,), "ended": (size, BINS), "capped": (size, BINS), "scores": evidence.scores.shape}
    for name in (*_KEPT, "keys"):
        if name not in parts or parts[name].shape != shapes.get(name, (size,)):
            raise InputError("history", str(path), f"must hold {name} of shape {shapes.get(name, (size,))}")
        if (
            parts[name].dtype.kind not in ("i" if name in ("keys", "parent", "level") else "if")
            or not np.isfinite(parts[name]).all()
        ):
            raise InputError("history", str(path), f"must hold finite numbers in {name}")
    for name in ("ended", "capped", "total", "seen"):
        if (parts[name] < 0).any():
            raise InputError("history", str(path), f"must hold {name} >= 0")
    level, parent = parts["level"], parts["parent"]
    fine = level[0] == 0 and parent[0] == -1 and (parts["weight"] >= 1.0).all() and level.max() < len(evidence.scores)
    fine = fine and ((parent[1:] >= 0) & (parent[1:] < size)).all()
    if not fine or (level[1:] != level[parent[1:]] + 1).any() or len(np.unique(parts["keys"])) != size - 1:
        raise InputError("history", str(path), "must be a tree of keys")
