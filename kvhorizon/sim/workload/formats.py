"""Formats of trace files, row by row; `sim.workload.readers` says which there are.

Anything that makes no sense raises InputError with row, field, value and rule.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.models.slo.classes import MOST_CHARACTERS

IntArray = NDArray[np.int64]
MOST_TOKENS = 10_000_000
Rows = Iterator[tuple[int, dict[str, str]]]


@dataclasses.dataclass(slots=True)
class Columns:
    """What a reader collects, row by row."""

    arrival_s: list[float] = dataclasses.field(default_factory=list)
    prompt: list[int] = dataclasses.field(default_factory=list)
    output: list[int] = dataclasses.field(default_factory=list)
    key: list[str] = dataclasses.field(default_factory=list)
    session: list[str] = dataclasses.field(default_factory=list)
    priority: list[int] = dataclasses.field(default_factory=list)
    prefix: list[IntArray] = dataclasses.field(default_factory=list)
    sampling: list[int] = dataclasses.field(default_factory=list)
    slo_class: list[str] = dataclasses.field(default_factory=list)
    dated: bool = False  # arrivals are seconds since 1970


def table(reader: csv.DictReader[str], arrivals: bool) -> Columns:
    """Rows of CSV, in the format that the names of its columns tell. Raises InputError."""
    fields = set(reader.fieldnames or ())
    rows = enumerate(reader, start=2)
    if "ContextTokens" in fields:
        return _logged(rows, fields, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _timestamp)
    if "Request tokens" in fields:
        return _logged(rows, fields, ("Timestamp", "Request tokens", "Response tokens"), _seconds)
    return _own(rows, fields, arrivals)


def json_lines(text: str) -> Columns:
    """Mooncake's. Raises InputError."""
    columns = Columns()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"row {number}", line[:40], f"must be JSON ({str(error)[:80]})") from None
        if not isinstance(row, dict):
            raise InputError(f"row {number}", line[:40], "must be a JSON object")
        _require(set(row), ("timestamp", "input_length", "output_length"))
        columns.arrival_s.append(_seconds(number, "timestamp", row["timestamp"]) / 1e3)
        columns.prompt.append(_whole(number, "input_length", row["input_length"]))
        columns.output.append(_whole(number, "output_length", row["output_length"]))
        ids = row.get("hash_ids", [])
        if not isinstance(ids, list):
            raise InputError(f"row {number}: hash_ids", ids, "must be a list of whole numbers")
        columns.prefix.append(np.array([_whole(number, "hash_ids", one, 0) for one in ids], np.int64))
    return columns


def _own(rows: Rows, fields: set[str], arrivals: bool) -> Columns:
    _require(fields, ("arrival_s", "prompt_tokens", "output_tokens"))
    tenant = next((name for name in ("client", "key", "tenant") if name in fields), None)
    columns = Columns()
    for number, row in rows:
        if arrivals:
            columns.arrival_s.append(_seconds(number, "arrival_s", row["arrival_s"]))
        columns.prompt.append(_whole(number, "prompt_tokens", row["prompt_tokens"]))
        columns.output.append(_whole(number, "output_tokens", row["output_tokens"]))
        if tenant:
            columns.key.append(row[tenant])
        if "session" in fields:
            columns.session.append(row["session"])
        if "slo_class" in fields:
            columns.slo_class.append(_class(number, row["slo_class"]))
        if "priority" in fields:
            columns.priority.append(_whole(number, "priority", row["priority"], -MOST_TOKENS))
        if "prefix_hashes" in fields:
            ids = (row["prefix_hashes"] or "").split()
            columns.prefix.append(np.array([_whole(number, "prefix_hashes", one, 0) for one in ids], np.int64))
    return columns


def _logged(
    rows: Rows, fields: set[str], names: tuple[str, str, str], when: Callable[[int, str, object], float]
) -> Columns:
    """A server's log; requests that failed gave no output and are left out."""
    _require(fields, names)
    time, *counts = names
    columns = Columns()
    for number, row in rows:
        prompt, output = (_whole(number, name, row[name], 0) for name in counts)
        if prompt and output:
            columns.arrival_s.append(when(number, time, row[time]))
            columns.prompt.append(prompt)
            columns.output.append(output)
    return columns


def _require(fields: set[str], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in fields:
            raise InputError("trace columns", ",".join(sorted(fields)), f"must include {name}")


def _whole(row: int, field: str, text: object, least: int = 1) -> int:
    try:
        value = int(str(text))
    except ValueError:
        value = MOST_TOKENS + 1
    if not least <= value <= MOST_TOKENS:
        raise InputError(f"row {row}: {field}", text, f"must be a whole number, {least}..{MOST_TOKENS}")
    return value


def _class(row: int, text: str | None) -> str:
    name = text or ""
    if len(name) > MOST_CHARACTERS:
        raise InputError(f"row {row}: slo_class", name, f"must be a name of at most {MOST_CHARACTERS} characters")
    return name


def _seconds(row: int, field: str, text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e12:
        raise InputError(f"row {row}: {field}", text, "must be a finite number of seconds")
    return value


def _timestamp(row: int, field: str, text: object) -> float:
    """Azure's date and time, whose seconds have seven digits, as seconds."""
    try:
        return datetime.fromisoformat(str(text).strip().split("+")[0][:26]).timestamp()
    except ValueError:
        raise InputError(f"row {row}: {field}", text, "must be a date and time") from None
