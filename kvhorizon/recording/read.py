"""Reading recordings: a file, or a folder of rotated ones, told apart from other traces by their first bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError, in_a_line
from kvhorizon.recording.schema import (
    FACTS_KEY,
    FORMAT,
    FORMAT_KEY,
    MAGIC,
    OLDER_LACK,
    SAMPLING_MOST,
    TEXTS,
    Row,
    arrow,
    schema,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MOST_TOKENS = 10_000_000
_COUNTS = (
    *("prompt_tokens", "output_tokens", "max_tokens", "priority"),
    *("preemptions", "recompute_tokens", "restored_tokens"),
)
_SECONDS = ("arrival_s", "wasted_flops", "recompute_s", "ttft_s", "tpot_s", "e2e_s")


class Recording(NamedTuple):
    """N requests in order of arrival; columns as in `Row`. Numbers that are absent are nan, or 0 for counts."""

    counts: dict[str, IntArray]  # (N,) each
    seconds: dict[str, FloatArray]  # (N,) each
    texts: dict[str, list[str]]  # N each
    prefix_hashes: list[list[int]]  # N
    facts: dict[str, Any]  # of the engine, from the last file by name; empty where the recording was converted
    sampling: IntArray  # (N,) -1 where absent

    def __len__(self) -> int:
        return len(self.seconds["arrival_s"])

    @property
    def replayable(self) -> NDArray[np.bool_]:
        """(N,) Requests that a replay has: those with a prompt that gave any output."""
        return (self.counts["prompt_tokens"] > 0) & (self.counts["output_tokens"] > 0)

    def rows(self) -> list[Row]:
        """As they were written."""
        found = []
        for n in range(len(self)):
            fields: dict[str, Any] = {name: int(column[n]) for name, column in self.counts.items()}
            fields |= {name: None if np.isnan(column[n]) else float(column[n]) for name, column in self.seconds.items()}
            fields |= {name: column[n] for name, column in self.texts.items()}
            fields["max_tokens"] = fields["max_tokens"] or None
            fields["sampling"] = None if self.sampling[n] < 0 else int(self.sampling[n])
            found.append(Row(**fields, prefix_hashes=tuple(self.prefix_hashes[n])))
        return found


def is_recording(path: Path) -> bool:
    """Whether the path is a Parquet file, or a folder."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_recording(path: Path) -> Recording:
    """All requests in a file or folder. Raises InputError for what is no recording, or makes no sense."""
    pa, pq = arrow("recording")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError("recording", str(path), "must hold .parquet files")
    tables = [_read(pa, pq, file) for file in files]
    facts = [_facts(file, table) for file, table in zip(files, tables, strict=True)]
    table = pa.concat_tables(tables).sort_by("arrival_s")
    if not len(table):
        raise InputError("recording", str(path), "must have at least one request")
    return _checked(table, facts[-1])


def _read(pa: Any, pq: Any, file: Path) -> Any:
    try:
        known = set(pq.read_schema(file).names)
        table = pq.read_table(file, columns=[name for name in Row._fields if name in known])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        raise InputError("recording", str(file), f"must be readable Parquet ({in_a_line(error)})") from None
    found = (table.schema.metadata or {}).get(FORMAT_KEY, b"").decode(errors="replace")
    may_lack = OLDER_LACK.get(found, ())
    missing = [name for name in Row._fields if name not in known and name not in may_lack]
    if found not in (FORMAT, *OLDER_LACK) or missing:
        said = f"lacks {missing[0]}" if missing else f"says {found or 'nothing'}"
        raise InputError("recording", str(file), f"must be of kvhorizon's format {FORMAT}; it {said}")
    for name in may_lack:
        if name not in known:
            kind = schema(pa, {}).field(name).type
            table = table.append_column(name, pa.nulls(len(table), kind))
    return table


def _facts(file: Path, table: Any) -> dict[str, Any]:
    try:
        facts = json.loads((table.schema.metadata or {}).get(FACTS_KEY, b"{}"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise InputError("recording", str(file), "must describe its engine as a JSON object")
    return facts


def _checked(table: Any, facts: dict[str, Any]) -> Recording:
    try:
        counts = {name: np.array(table[name].fill_null(0).to_numpy(), np.int64) for name in _COUNTS}
        seconds = {name: np.array(table[name].fill_null(np.nan).to_numpy(), np.float64) for name in _SECONDS}
        texts = {name: [one or "" for one in table[name].to_pylist()] for name in TEXTS}
        sampling = np.array(table["sampling"].fill_null(-1).to_numpy(), np.int64)
        hashes = [[int(one) for one in chain or ()] for chain in table["prefix_hashes"].to_pylist()]
    except (TypeError, ValueError, ArithmeticError, NotImplementedError, AttributeError) as error:
        raise InputError("recording columns", None, f"must be of the kinds documented ({error})") from None
    for name in ("prompt_tokens", "output_tokens"):
        _within(name, counts[name], 0, MOST_TOKENS)
    _within("sampling", sampling, -1, SAMPLING_MOST)
    _within("arrival_s", seconds["arrival_s"], 0.0, 1e12)
    return Recording(counts, seconds, texts, hashes, facts, sampling)


def _within(name: str, column: FloatArray | IntArray, least: float, most: float) -> None:
    wrong = np.flatnonzero(~((column >= least) & (column <= most)))
    if len(wrong):
        raise InputError(f"row {wrong[0] + 1}: {name}", column[wrong[0]].item(), f"must be within {least}..{most}")
