"""OpenAI-style access logs, JSON lines or one JSON array, as rows of a recording.

Each entry is a request with its `usage`: the answer of `/v1/completions` or `/v1/chat/completions` itself, or what a
gateway writes of it. Known by name, at the top, in `usage`, `request` or `response`:

| of a row | names |
|---|---|
| arrival | timestamp, @timestamp, time, ts, start_time, startTime, created_at, created: in s, ms, µs, ns, or ISO 8601 |
| tokens | prompt_tokens or input_tokens; completion_tokens or output_tokens |
| the rest, if there | id or request_id; user or tenant; max_tokens or max_completion_tokens; ttft_s; latency_s |

Entries without tokens of both kinds failed, and are left out. Prompts and answers are not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from kvhorizon.errors import InputError
from kvhorizon.recording.schema import Row

MOST_TOKENS = 10_000_000
_WHEN = ("timestamp", "@timestamp", "time", "ts", "start_time", "startTime", "created_at", "created")
_PARTS = ("usage", "request", "response")
_LARGEST_S = 1e11  # a larger number counts parts of a second


def access_rows(text: str) -> list[Row]:
    """All complete requests of a log. Raises InputError with the entry that makes no sense."""
    found = [row for number, entry in _entries(text) if (row := _row(number, entry)) is not None]
    if not found:
        raise InputError("access log", None, "must have at least one request with its prompt_tokens and output tokens")
    return found


def _entries(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if text.lstrip().startswith("["):
        whole = _parse(1, text)
        entries = list(enumerate(whole, start=1))
    else:
        lines = enumerate(text.splitlines(), start=1)
        entries = [(number, _parse(number, line)) for number, line in lines if line.strip()]
    for number, entry in entries:
        if not isinstance(entry, dict):
            raise InputError(f"entry {number}", str(entry)[:40], "must be a JSON object")
        yield number, entry


def _parse(number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"entry {number}", text[:40], f"must be JSON ({str(error)[:80]})") from None


def _row(number: int, entry: Mapping[str, Any]) -> Row | None:
    parts = _parts(entry)
    prompt = _count(number, parts, "prompt_tokens", "input_tokens")
    output = _count(number, parts, "completion_tokens", "output_tokens")
    if not prompt or not output:
        return None
    when = next((entry[name] for name in _WHEN if entry.get(name) is not None), None)
    if when is None:
        when = next((part[name] for part in parts for name in _WHEN if part.get(name) is not None), None)
    ttft_s, e2e_s = _seconds(number, parts, "ttft_s"), _seconds(number, parts, "latency_s")
    measured = ttft_s is not None and e2e_s is not None and output > 1
    return Row(
        arrival_s=_time(number, when),
        prompt_tokens=prompt,
        output_tokens=output,
        request_id=_text(parts, "id", "request_id"),
        max_tokens=_count(number, parts, "max_tokens", "max_completion_tokens"),
        tenant=_text(parts, "user", "tenant"),
        ttft_s=ttft_s,
        tpot_s=max((e2e_s or 0.0) - (ttft_s or 0.0), 0.0) / (output - 1) if measured else None,
        e2e_s=e2e_s,
    )


def _parts(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entry, and the objects in it that are looked into."""
    inner = [entry[name] for name in _PARTS if isinstance(entry.get(name), dict)]
    deeper = [part["usage"] for part in inner if isinstance(part.get("usage"), dict)]
    return [entry, *inner, *deeper]


def _first(parts: list[Mapping[str, Any]], *names: str) -> Any:
    return next((part[name] for part in parts for name in names if part.get(name) is not None), None)


def _count(number: int, parts: list[Mapping[str, Any]], *names: str) -> int | None:
    value = _first(parts, *names)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        raise InputError(f"entry {number}: {names[0]}", str(value)[:40], f"must be a whole number, 0..{MOST_TOKENS}")
    return value


def _seconds(number: int, parts: list[Mapping[str, Any]], name: str) -> float | None:
    value = _first(parts, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= _LARGEST_S:
        raise InputError(f"entry {number}: {name}", str(value)[:40], "must be a number of seconds")
    return float(value)


def _text(parts: list[Mapping[str, Any]], *names: str) -> str:
    value = _first(parts, *names)
    return str(value)[:256] if isinstance(value, str | int) else ""


def _time(number: int, value: object) -> float:
    """Seconds since 1970, from a number in any of the usual units, or from a date and time."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            seconds = datetime.fromisoformat(value.strip().replace("Z", "+00:00")).timestamp()
        else:
            seconds = float(value)  # type: ignore[arg-type]
        if not math.isfinite(seconds) or seconds < 0.0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        shown = None if value is None else str(value)[:40]
        raise InputError(f"entry {number}: timestamp", shown, "must be seconds, or a date and time") from None
    while seconds > _LARGEST_S:
        seconds /= 1e3
    return seconds
