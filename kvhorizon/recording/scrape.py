"""Requests that an engine's Prometheus metrics describe, where nothing but distributions is known of them.

vLLM counts requests, and how many had a prompt or an output of at most so many tokens. Requests are drawn from these:
as many as were finished between two scrapes (or since the start of the process, with one), Poisson arrivals at their
rate, lengths uniform within their bucket on a logarithmic scale, prompts and outputs independent. So rates and lengths
are the engine's; bursts, tenants, and what long prompts have to do with long answers are not known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.recording.exposition import Sample, buckets, parse, total
from kvhorizon.recording.schema import Row

PROMPT, OUTPUT = "vllm:request_prompt_tokens", "vllm:request_generation_tokens"
STARTED = "process_start_time_seconds"
SEED = 0
MOST_REQUESTS = 1_000_000
LARGEST_TOKENS = 200_000  # of a bucket without an upper bound
_Counts = list[tuple[float, float]]


def is_scrape(text: str) -> bool:
    """Whether the text is an engine's `/metrics`."""
    return f"{PROMPT}_bucket" in text


def scrape_rows(earlier: str | None, later: str, now_s: float, span_s: float | None = None) -> list[Row]:
    """Requests of the time between two scrapes, or since the engine began if there is one.

    `now_s` is when the later was taken (time of day), `span_s` the time between them. Raises InputError.
    """
    samples = parse(later)
    before = [] if earlier is None else parse(earlier)
    prompt, output = (_gained(before, samples, name) for name in (PROMPT, OUTPUT))
    count = int(min(prompt[-1][1], output[-1][1]))
    if not 1 <= count <= MOST_REQUESTS:
        raise InputError("metrics: requests", count, f"must be within 1 ... {MOST_REQUESTS} between the scrapes")
    span_s = _span_s(samples, now_s) if span_s is None else span_s
    if not (math.isfinite(span_s) and span_s > 0.0):
        raise InputError("metrics: time between scrapes", span_s, "must be > 0 seconds")
    draw = np.random.default_rng(SEED)
    gaps = draw.exponential(1.0, count)
    arrival_s = now_s - span_s + np.cumsum(gaps) * (span_s / max(float(gaps.sum()), 1e-12))
    if not 0.0 <= float(arrival_s[0]) < 1e12:
        raise InputError("metrics: time", now_s, "must be a time of day")
    prompts, outputs = (_lengths(draw, part, count) for part in (prompt, output))
    return [
        Row(when, tokens, answer)
        for when, tokens, answer in zip(arrival_s.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
    ]


def _span_s(samples: Sequence[Sample], now_s: float) -> float:
    started_s = total(samples, STARTED)
    if started_s is None or not math.isfinite(started_s):
        raise InputError(f"metrics: {STARTED}", None, "must be there, or a second scrape must be given")
    return now_s - started_s


def _gained(before: Sequence[Sample], after: Sequence[Sample], name: str) -> _Counts:
    """What a histogram's buckets gained."""
    found, old = buckets(after, name), dict(buckets(before, name))
    gained = [(bound, count - old.get(bound, 0.0)) for bound, count in found]
    bounds, counts = [bound for bound, _ in gained], [count for _, count in gained]
    if not bounds or not math.isinf(bounds[-1]):
        raise InputError(f"metrics: {name}", None, "must be there, as vLLM exposes it")
    if any(two < one for one, two in itertools.pairwise([0.0, *counts])):
        raise InputError(f"metrics: {name}", None, "must not count less than in the earlier scrape")
    return gained


def _lengths(draw: np.random.Generator, counts: _Counts, size: int) -> NDArray[np.int64]:
    """Tokens (size,) >= 1, as the buckets have them."""
    bounds = np.array([min(max(bound, 1.0), LARGEST_TOKENS) for bound, _ in counts])
    lower = np.concatenate([[1.0], bounds[:-1]])
    many = np.diff([0.0, *(count for _, count in counts)])
    chosen = draw.choice(len(many), size, p=many / many.sum())
    spread = np.log(bounds[chosen] / np.minimum(lower[chosen], bounds[chosen]))
    tokens = lower[chosen] * np.exp(draw.random(size) * spread)
    found: NDArray[np.int64] = np.clip(np.ceil(tokens), 1, LARGEST_TOKENS).astype(np.int64)
    return found
