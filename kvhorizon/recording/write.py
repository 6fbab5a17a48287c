"""Writing recordings: whole files only, so that whatever ends the engine, every file there is can be read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvhorizon.recording.schema import FACTS_KEY, FORMAT, FORMAT_KEY, Row, arrow, schema

PREFIX = "requests-"
UNFINISHED = ".part"


def write_rows(path: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """One complete file, readable by its owner only; under another name until it is whole. Raises OSError."""
    pa, pq = arrow("record")
    metadata = {FORMAT_KEY: FORMAT.encode(), FACTS_KEY: json.dumps(facts, sort_keys=True).encode()}
    columns = dict(zip(Row._fields, zip(*rows, strict=True) if rows else [()] * len(Row._fields), strict=True))
    table = pa.Table.from_pydict(columns, schema=schema(pa, metadata))
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            pq.write_table(table, file, compression="zstd")
        unfinished.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


class Folder:
    """Files of one engine in a folder, numbered; the oldest recordings in the folder go where it grows too large."""

    def __init__(self, path: Path, name: str, most_bytes: int) -> None:
        """`name` is unlike that of any other engine that writes there. Raises OSError where it cannot be used."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable", str(path))
        self._path, self._name, self._most_bytes = path, name, most_bytes
        self._number = 0

    def write(self, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
        """One more file. Raises OSError."""
        self.make_room()
        write_rows(self._path / f"{PREFIX}{self._name}-{self._number:06d}.parquet", rows, facts)
        self._number += 1

    def make_room(self) -> None:
        """Remove the oldest files beyond the limit."""
        files = [(found.stat().st_mtime, found.stat().st_size, found) for found in self._path.glob(f"{PREFIX}*")]
        size = sum(its_size for _, its_size, _ in files)
        for _, its_size, file in sorted(files):
            if size <= self._most_bytes:
                return
            file.unlink(missing_ok=True)
            size -= its_size
