"""A length history in a file, so that a restart does not begin from nothing.

The file is a NumPy archive of plain arrays with a version; reading it executes nothing (no pickles), and anything that
does not fit is refused with one line. It is written beside its place and then moved there, so that a crash leaves the
old one.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.models.bins import BINS
from kvhorizon.models.evidence import Evidence
from kvhorizon.models.history import LengthHistory

VERSION = 1
_KEPT = ("ended", "capped", "weight", "total", "seen", "parent", "level", "scores")


def save_history(history: LengthHistory, path: Path) -> None:
    """Write all that finished requests taught; what runs at the moment is left out."""
    keys, nodes = history.known()
    used = [0, *nodes.tolist()]
    parts = {name: getattr(history.evidence, name) for name in _KEPT}
    kept = {name: part if name == "scores" else part[used] for name, part in parts.items()}
    place = {node: number for number, node in enumerate(used)}
    kept["parent"] = np.array([place.get(int(node), -1) for node in kept["parent"]], dtype=np.int64)
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as out:
        np.savez_compressed(out, version=np.array(VERSION), keys=keys, **kept)
    os.replace(beside, path)


def load_history(history: LengthHistory, path: Path) -> None:
    """Put what a file holds into an empty history; the keys used last, if not all have room. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError("history", str(path), f"must be a readable history file ({error})") from None
    if int(parts.get("version", np.array(-1)).flat[0]) != VERSION:
        raise InputError("history", str(path), f"must be of version {VERSION}")
    _check(path, parts, history.evidence)
    history.restore(parts["keys"].astype(np.int64), {name: parts[name] for name in _KEPT})


def _check(path: Path, parts: dict[str, np.ndarray], evidence: Evidence) -> None:
    size = 1 + len(parts.get("keys", ()))
    shapes = {"keys": (size - 1,), "ended": (size, BINS), "capped": (size, BINS), "scores": evidence.scores.shape}
    for name in (*_KEPT, "keys"):
        if name not in parts or parts[name].shape != shapes.get(name, (size,)):
            raise InputError("history", str(path), f"must hold {name} of shape {shapes.get(name, (size,))}")
        if parts[name].dtype.kind not in "if" or not np.isfinite(parts[name]).all():
            raise InputError("history", str(path), f"must hold finite numbers in {name}")
    for name in ("ended", "capped", "total", "seen"):
        if (parts[name] < 0).any():
            raise InputError("history", str(path), f"must hold {name} >= 0")
    level, parent = parts["level"], parts["parent"]
    fine = level[0] == 0 and parent[0] == -1 and (parts["weight"] >= 1.0).all() and level.max() < len(evidence.scores)
    fine = fine and ((parent[1:] >= 0) & (parent[1:] < size)).all()
    if not fine or (level[1:] != level[parent[1:]] + 1).any() or len(np.unique(parts["keys"])) != size - 1:
        raise InputError("history", str(path), "must be a tree of keys")
