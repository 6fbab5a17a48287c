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
import gzip
import io
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.recording.read import Recording, is_recording, read_recording
from kvhorizon.sim.workload.formats import Columns, json_lines, table
from kvhorizon.sim.workload.trace import Trace, make_trace

IntArray = NDArray[np.int64]
MOST_BYTES = 2 << 30
DATED_S = 1e9  # arrivals before this, in 2001, are not seconds since 1970 but since some beginning
PREFIX_TOKENS = 512  # prompt tokens that one prefix hash stands for, in Mooncake's traces


def read_trace(path: Path, prefix_tokens: int | None = None) -> Trace:
    """The trace in a file, sorted by arrival, beginning at 0; without `prefix_tokens`, see `tokens_per_hash`.

    Raises InputError.
    """
    if is_recording(path):
        return recorded_trace(path.name.removesuffix(".parquet"), read_recording(path))
    name = path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".jsonl")
    columns = _parse(path)
    return _trace(name, columns, tokens_per_hash(columns) if prefix_tokens is None else prefix_tokens)


def tokens_per_hash(columns: Columns) -> int:
    """Prompt tokens that a prefix hash stands for: Mooncake's 512, unless prompts have more hashes than that allows.

    Then the largest power of two with which every prompt has room for its hashes, the last of which may be of a part.
    """
    size = PREFIX_TOKENS
    for hashes, prompt in zip(columns.prefix, columns.prompt, strict=False):
        while size > 1 and len(hashes) > -(-prompt // size):
            size //= 2
    return size


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
    return _trace(name, columns, int(recording.facts.get("block_size", tokens_per_hash(columns))))


def read_lengths(path: Path) -> tuple[IntArray, IntArray]:
    """Prompt and output tokens (N,) each, of a file that may lack arrivals. Raises InputError."""
    columns = _parse(path, arrivals=False)
    return np.array(columns.prompt, np.int64), np.array(columns.output, np.int64)


def _parse(path: Path, arrivals: bool = True) -> Columns:
    text = _text(path)
    if text.lstrip().startswith("{"):
        return json_lines(text)
    try:
        return table(csv.DictReader(io.StringIO(text, newline="")), arrivals)
    except csv.Error as error:
        raise InputError("trace", str(path), f"must be CSV ({error})") from None


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
    """As `_numbers`, but a request without a name (−1) continues no request."""
    return np.where(np.array(names) == "", -1, _numbers(names, len(names)))


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
