"""Results of `vllm bench serve --save-result --save-detailed` and of SGLang's `bench_serving`, as rows of a recording.

Where a result does not say when requests were sent (SGLang's, and vLLM's older ones), arrivals are drawn as the
benchmark draws them: a Poisson process of its request rate, or all at once where that is infinite. Texts are not kept.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any

from kvhorizon.errors import InputError
from kvhorizon.recording.schema import Row

MOST_TOKENS = 10_000_000
LEAST_RATE = 1e-4  # requests per second
SEED = 0


def is_benchmark(text: str) -> bool:
    """Whether the text is such a result: one object, or one a line, with the lists that `--save-detailed` keeps."""
    return any(f'"{name}"' in text for name in ("input_lens", "total_input_tokens"))


def benchmark_rows(text: str) -> list[Row]:
    """All requests that were answered. Raises InputError."""
    rows: list[Row] = []
    for result in _results(text):
        rows += _rows(result, rows[-1].arrival_s if rows else 0.0)
    if not rows:
        raise InputError("benchmark", None, "must have at least one request with output")
    return rows


def _results(text: str) -> list[Mapping[str, Any]]:
    try:
        found = [json.loads(text)]
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise InputError("benchmark", text[:40], f"must be JSON ({str(error)[:80]})") from None
    except RecursionError:
        raise InputError("benchmark", text[:40], "must be JSON of sensible depth") from None
    for result in found:
        if not isinstance(result, dict):
            raise InputError("benchmark", str(result)[:40], "must be a JSON object")
        if "input_lens" not in result:
            raise InputError("benchmark: input_lens", None, "must be there: save the result with --save-detailed")
    return found


def _rows(result: Mapping[str, Any], begin_s: float) -> list[Row]:
    prompt = _list(result, "input_lens")
    output = _list(result, "output_lens", len(prompt))
    ttft = _list(result, "ttfts", len(prompt))
    itls = _list(result, "itls", len(prompt))
    arrival = _arrivals(result, len(prompt))
    rows = []
    for n in range(len(prompt)):
        tokens_in, tokens_out = _count(n, "input_lens", prompt[n]), _count(n, "output_lens", output[n])
        if not tokens_in or not tokens_out:
            continue
        first_s = _seconds(n, "ttfts", ttft[n]) if ttft[n] else None
        gaps = itls[n] if isinstance(itls[n], list) else []
        between_s = sum(_seconds(n, "itls", gap) for gap in gaps)
        e2e_s = None if first_s is None else first_s + between_s
        tpot_s = between_s / (tokens_out - 1) if e2e_s is not None and tokens_out > 1 else None
        rows.append(Row(begin_s + arrival[n], tokens_in, tokens_out, ttft_s=first_s, tpot_s=tpot_s, e2e_s=e2e_s))
    return rows


def _arrivals(result: Mapping[str, Any], size: int) -> list[float]:
    starts = result.get("start_times")
    if starts:
        found = [_seconds(n, "start_times", start) for n, start in enumerate(_list(result, "start_times", size))]
        return [start - min(found) for start in found]
    rate = result.get("request_rate", math.inf)
    try:
        rate = float(rate)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not rate >= LEAST_RATE:
        told = f"must be >= {LEAST_RATE} where start_times lack"
        raise InputError("benchmark: request_rate", result.get("request_rate"), told)
    draw = random.Random(SEED)
    times, now_s = [], 0.0
    for _ in range(size):
        times.append(now_s)
        now_s += draw.expovariate(rate) if math.isfinite(rate) else 0.0
    return times


def _list(result: Mapping[str, Any], name: str, size: int | None = None) -> list[Any]:
    """The list of that name; of None where it is not there and a size is given."""
    found = result.get(name)
    if found is None and size is not None:
        return [None] * size
    if not isinstance(found, list) or (size is not None and len(found) != size):
        raise InputError(f"benchmark: {name}", str(found)[:40], "must be a list with an entry for each request")
    return found


def _count(n: int, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        raise InputError(f"{name}[{n}]", str(value)[:40], f"must be a whole number, 0..{MOST_TOKENS}")
    return value


def _seconds(n: int, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1e12:
        raise InputError(f"{name}[{n}]", str(value)[:40], "must be a number of seconds")
    return float(value)
