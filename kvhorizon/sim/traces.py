"""Readers of request traces, told apart by content: our own CSV, Azure LLM, BurstGPT, Mooncake, recordings.

| format | columns or keys |
|---|---|
| own CSV | arrival_s, prompt_tokens, output_tokens [, client or key] [, session] [, priority] [, prefix_hashes] |
|  | [, slo_class] |
| Azure LLM 2023 / 2024 | TIMESTAMP, ContextTokens, GeneratedTokens (github.com/Azure/AzurePublicDataset) |
| BurstGPT | Timestamp [s], Request tokens, Response tokens (github.com/HPMLL/BurstGPT) |
| Mooncake | JSON lines: timestamp [ms], input_length, output_length [, hash_ids] (github.com/kvcache-ai/Mooncake) |
| recording | Parquet files of `kvhorizon.recording`, one or a folder of them |

Texts may be gzipped. Azure and BurstGPT log failed requests with no output; those rows are left out. Anything
else that makes no sense raises InputError with row, field, value and rule.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.models.classes import MOST_CHARACTERS
from kvhorizon.recording.read import Recording, is_recording, read_recording
from kvhorizon.sim.trace import Trace

IntArray = NDArray[np.int64]
MOST_TOKENS = 10_000_000
MOST_BYTES = 2 << 30
DATED_S = 1e9  # arrivals before this, in 2001, are not seconds since 1970 but since some beginning
PREFIX_TOKENS = 512  # prompt tokens that one prefix hash stands for, in Mooncake's traces
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


def read_trace(path: Path, prefix_tokens: int = PREFIX_TOKENS) -> Trace:
    """The trace in a file, sorted by arrival, beginning at 0. Raises InputError."""
    if is_recording(path):
        return recorded_trace(path.name.removesuffix(".parquet"), read_recording(path))
    name = path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".jsonl")
    return _trace(name, _parse(path), prefix_tokens)


def recorded_trace(name: str, recording: Recording) -> Trace:
    """What a recording holds of requests that gave any output; tenants are numbered, block hashes are prefix hashes.

    Raises InputError where there is none.
    """
    kept = np.flatnonzero(recording.replayable)
    if not len(kept):
        raise InputError("recording", name, "must have at least one request with output")
    columns = Columns(
        arrival_s=recording.seconds["arrival_s"][kept].tolist(),
        prompt=recording.counts["prompt_tokens"][kept].tolist(),
        output=recording.counts["output_tokens"][kept].tolist(),
        key=[recording.texts["tenant"][n] for n in kept],
        priority=recording.counts["priority"][kept].tolist(),
        session=[recording.texts["session"][n] for n in kept],
        prefix=[np.array(recording.prefix_hashes[n], np.int64) for n in kept],
        sampling=recording.sampling[kept].tolist(),
        slo_class=[recording.texts["slo_class"][n] for n in kept],
        dated=bool(recording.seconds["arrival_s"][kept].min() >= DATED_S),
    )
    if not recording.counts["priority"].any():
        columns.priority.clear()
    for names in (columns.session, columns.slo_class):
        if not any(names):
            names.clear()
    return _trace(name, columns, int(recording.facts.get("block_size", PREFIX_TOKENS)))


def read_lengths(path: Path) -> tuple[IntArray, IntArray]:
    """Prompt and output tokens (N,) each, of a file that may lack arrivals. Raises InputError."""
    columns = _parse(path, arrivals=False)
    return np.array(columns.prompt, np.int64), np.array(columns.output, np.int64)


def _parse(path: Path, arrivals: bool = True) -> Columns:
    text = _text(path)
    if text.lstrip().startswith("{"):
        return _mooncake(text)
    try:
        return _table(csv.DictReader(io.StringIO(text, newline="")), arrivals)
    except csv.Error as error:
        raise InputError("trace", str(path), f"must be CSV ({error})") from None


def _table(reader: csv.DictReader[str], arrivals: bool) -> Columns:
    """Of the format that the names of the columns tell."""
    fields = set(reader.fieldnames or ())
    rows = enumerate(reader, start=2)
    if "ContextTokens" in fields:
        return _logged(rows, fields, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _timestamp)
    if "Request tokens" in fields:
        return _logged(rows, fields, ("Timestamp", "Request tokens", "Response tokens"), _seconds)
    return _own(rows, fields, arrivals)


def _text(path: Path) -> str:
    try:
        text = _plain(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError("trace", str(path), "must be an existing file or synthetic:NAME") from None
    except OSError as error:
        raise InputError("trace", str(path), f"must be a readable file ({error})") from None
    except (UnicodeDecodeError, EOFError, zlib.error) as error:
        raise InputError("trace", str(path), f"must be text, gzipped or not ({error})") from None
    if not text.strip():
        raise InputError("trace", str(path), "must not be empty")
    return text


def _plain(path: Path) -> bytes:
    """The file's content, unpacked if it is gzipped; at most MOST_BYTES of it, however small the file."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        found = (gzip.GzipFile(fileobj=file) if packed else file).read(MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise InputError("trace", str(path), f"must be at most {MOST_BYTES >> 30} GiB of text")
    return found


def _require(fields: set[str], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in fields:
            raise InputError("trace columns", ",".join(sorted(fields)), f"must include {name}")


def _count(row: int, field: str, text: object, least: int = 1) -> int:
    try:
        value = int(str(text))
    except ValueError:
        value = -1
    if str(text).strip() in ("", "None") or not least <= value <= MOST_TOKENS:
        raise InputError(f"row {row}: {field}", text, f"must be a whole number, {least}..{MOST_TOKENS}")
    return value


def _class(row: int, text: str | None) -> str:
    name = text or ""
    if len(name) > MOST_CHARACTERS:
        raise InputError(f"row {row}: slo_class", name, f"must be a name of at most {MOST_CHARACTERS} characters")
    return name


def _whole(row: int, field: str, text: object) -> int:
    try:
        value = int(str(text))
    except ValueError:
        value = MOST_TOKENS + 1
    if abs(value) > MOST_TOKENS:
        raise InputError(f"row {row}: {field}", text, f"must be a whole number, {-MOST_TOKENS}..{MOST_TOKENS}")
    return value


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


def _own(rows: Rows, fields: set[str], arrivals: bool) -> Columns:
    _require(fields, ("arrival_s", "prompt_tokens", "output_tokens"))
    tenant = next((name for name in ("client", "key", "tenant") if name in fields), None)
    columns = Columns()
    for number, row in rows:
        if arrivals:
            columns.arrival_s.append(_seconds(number, "arrival_s", row["arrival_s"]))
        columns.prompt.append(_count(number, "prompt_tokens", row["prompt_tokens"]))
        columns.output.append(_count(number, "output_tokens", row["output_tokens"]))
        if tenant:
            columns.key.append(row[tenant])
        if "session" in fields:
            columns.session.append(row["session"])
        if "slo_class" in fields:
            columns.slo_class.append(_class(number, row["slo_class"]))
        if "priority" in fields:
            columns.priority.append(_whole(number, "priority", row["priority"]))
        if "prefix_hashes" in fields:
            ids = (row["prefix_hashes"] or "").split()
            columns.prefix.append(np.array([_count(number, "prefix_hashes", one, 0) for one in ids], np.int64))
    return columns


def _logged(
    rows: Rows, fields: set[str], names: tuple[str, str, str], when: Callable[[int, str, object], float]
) -> Columns:
    """A server's log; requests that failed gave no output and are left out."""
    _require(fields, names)
    columns = Columns()
    for number, row in rows:
        prompt, output = (_count(number, name, row[name], 0) for name in names[1:])
        if prompt and output:
            columns.arrival_s.append(when(number, names[0], row[names[0]]))
            columns.prompt.append(prompt)
            columns.output.append(output)
    return columns


def _mooncake(text: str) -> Columns:
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
        columns.prompt.append(_count(number, "input_length", row["input_length"]))
        columns.output.append(_count(number, "output_length", row["output_length"]))
        ids = row.get("hash_ids", [])
        if not isinstance(ids, list):
            raise InputError(f"row {number}: hash_ids", ids, "must be a list of whole numbers")
        columns.prefix.append(np.array([_count(number, "hash_ids", one, 0) for one in ids], np.int64))
    return columns


def _trace(name: str, columns: Columns, prefix_tokens: int) -> Trace:
    if not columns.arrival_s:
        raise InputError("trace", name, "must have at least one request")
    arrival = np.array(columns.arrival_s)
    order = np.argsort(arrival, kind="stable")
    size = len(order)
    hashed = any(len(ids) for ids in columns.prefix)
    return make_trace(
        name,
        arrival[order] - arrival[order[0]],
        np.array(columns.prompt, np.int64)[order],
        np.array(columns.output, np.int64)[order],
        key=_numbers(columns.key, size)[order],
        prefix_hashes=tuple(columns.prefix[n] for n in order) if hashed else None,
        prefix_tokens=prefix_tokens if hashed else 0,
        session=_sessions(columns.session)[order] if columns.session else None,
        priority=np.array(columns.priority, np.int64)[order] if columns.priority else None,
        began_s=float(arrival[order[0]]) if columns.dated else None,
        sampling=np.array(columns.sampling, np.int64)[order] if any(kind >= 0 for kind in columns.sampling) else None,
        slo_class=tuple(columns.slo_class[n] for n in order) if columns.slo_class else None,
        key_names=tuple(dict.fromkeys(columns.key)),
    )


def _numbers(names: list[str], size: int) -> IntArray:
    """Names as numbers from 0, in order of first appearance; zeros where there are none."""
    if not names:
        return np.zeros(size, np.int64)
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)


def _sessions(names: list[str]) -> IntArray:
    """As `_numbers`, but a request without a name (−1) continues nobody."""
    return np.where(np.array(names) == "", -1, _numbers(names, len(names)))


def make_trace(
    name: str,
    arrival_s: NDArray[np.float64],
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    key: IntArray | None = None,
    prefix_hashes: tuple[IntArray, ...] | None = None,
    prefix_tokens: int = 0,
    session: IntArray | None = None,
    priority: IntArray | None = None,
    began_s: float | None = None,
    sampling: IntArray | None = None,
    slo_class: tuple[str, ...] | None = None,
    key_names: tuple[str, ...] = (),
) -> Trace:
    """A trace from its columns, (N,) each, with their checksum."""
    digest = hashlib.sha256()
    for column in (arrival_s, prompt_tokens, output_tokens):
        digest.update(np.ascontiguousarray(column).tobytes())
    return Trace(
        name=name,
        sha256=digest.hexdigest(),
        arrival_s=arrival_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        key=np.zeros(len(arrival_s), np.int64) if key is None else key,
        prefix_hashes=prefix_hashes,
        prefix_tokens=prefix_tokens,
        session=session,
        priority=priority,
        began_s=began_s,
        sampling=sampling,
        slo_class=slo_class,
        key_names=key_names,
    )


def window(trace: Trace, first: int, size: int) -> Trace:
    """`size` requests from the `first` on, shifted to begin at 0."""
    rows = slice(first, first + size)
    return make_trace(
        trace.name,
        trace.arrival_s[rows] - trace.arrival_s[first],
        trace.prompt_tokens[rows],
        trace.output_tokens[rows],
        trace.key[rows],
        None if trace.prefix_hashes is None else trace.prefix_hashes[rows],
        trace.prefix_tokens,
        None if trace.session is None else trace.session[rows],
        None if trace.priority is None else trace.priority[rows],
        None if trace.began_s is None else trace.began_s + float(trace.arrival_s[first]),
        None if trace.sampling is None else trace.sampling[rows],
        None if trace.slo_class is None else trace.slo_class[rows],
        trace.key_names,
    )


def limit(trace: Trace, most: int) -> Trace:
    """The first `most` requests."""
    return window(trace, 0, most)


def write_trace(trace: Trace, path: Path) -> None:
    """Our own CSV, gzipped if the name ends so."""
    columns: dict[str, list[object]] = {
        "arrival_s": [repr(seconds) for seconds in trace.arrival_s.tolist()],
        "prompt_tokens": trace.prompt_tokens.tolist(),
        "output_tokens": trace.output_tokens.tolist(),
        "client": trace.key.tolist(),
    }
    if trace.session is not None:
        columns["session"] = ["" if session < 0 else session for session in trace.session.tolist()]
    if trace.priority is not None:
        columns["priority"] = trace.priority.tolist()
    if trace.slo_class is not None:
        columns["slo_class"] = ['"' + name.replace('"', '""') + '"' for name in trace.slo_class]
    if trace.prefix_hashes is not None:
        columns["prefix_hashes"] = [" ".join(map(str, hashes.tolist())) for hashes in trace.prefix_hashes]
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    raw = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
