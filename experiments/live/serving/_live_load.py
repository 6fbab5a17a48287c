"""Requests with known lengths, sent to an OpenAI server at their times of arrival, and what came back when.

A client sends `max_tokens` as clients do, the same for all; a forecast with log error SIGMA as the hint `pred_len`; and
the true length by a route that no forecast reads (see `_live_model`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
import numpy as np

from experiments.live.serving._live_model import END, LENGTH, VOCABULARY
from experiments.live.serving._live_server import NAME
from kvhorizon.adapter.forecasting.hints import NAME as HINT

SIGMA = 0.6
MAX_TOKENS = 900
OUTPUT_SIGMA = 0.9
LIMIT_S = 600.0  # of one request


class Kind(NamedTuple):
    """What requests are like: prompts of any length between two, outputs log-normal about a median, cut."""

    prompt_tokens: tuple[int, int] = (16, 96)
    output_median: float = 100.0
    output_tokens: tuple[int, int] = (8, 800)
    max_tokens: int = MAX_TOKENS


class Ask(NamedTuple):
    """One request."""

    arrival_s: float
    prompt: list[int]
    output_tokens: int
    predicted: int
    max_tokens: int = MAX_TOKENS


@dataclass
class Told:
    """What its client saw; seconds since the load began."""

    sent_s: float = 0.0
    first_s: float = float("nan")
    last_s: float = float("nan")
    tokens: list[int] | None = None  # None: it failed
    reason: str | None = None


def asks(count: int, seed: int, rate: float, kind: Kind = Kind()) -> list[Ask]:
    """Poisson arrivals at `rate` per second; outputs longer than prompts, and mixed."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1.0 / rate, count))
    prompts = random.integers(*kind.prompt_tokens, count, endpoint=True)
    outputs = np.exp(random.normal(np.log(kind.output_median), OUTPUT_SIGMA, count))
    outputs = np.clip(outputs, *kind.output_tokens).astype(int)
    predicted = np.maximum(outputs * np.exp(random.normal(0.0, SIGMA, count)), 1.0).astype(int)
    return [
        Ask(
            float(arrivals[n] - arrivals[0]),
            random.integers(END + 1, VOCABULARY, prompts[n]).tolist(),
            int(outputs[n]),
            int(predicted[n]),
            kind.max_tokens,
        )
        for n in range(count)
    ]


def send(
    url: str, load: Sequence[Ask], at_once: int | None = None, leaves: Mapping[int, int] | None = None
) -> list[Told]:
    """All of the load; with `at_once`, only so many at a time and no arrival times.

    `leaves`: request -> number of answers after which its client is gone.
    """
    return asyncio.run(_send(url, load, at_once, leaves or {}))


async def _send(url: str, load: Sequence[Ask], at_once: int | None, leaves: Mapping[int, int]) -> list[Told]:
    places = asyncio.Semaphore(at_once or len(load))
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # the server ends idle connections whenever it likes
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begin_s = time.perf_counter()

        async def one(number: int, ask: Ask) -> Told:
            if at_once is None:
                await asyncio.sleep(max(begin_s + ask.arrival_s - time.perf_counter(), 0.0))
            async with places:
                return await _one(session, url, ask, begin_s, leaves.get(number))

        return await asyncio.gather(*(one(number, ask) for number, ask in enumerate(load)))


async def _one(session: aiohttp.ClientSession, url: str, ask: Ask, begin_s: float, leaves: int | None) -> Told:
    told, chunks = Told(sent_s=time.perf_counter() - begin_s), []
    try:
        async with session.post(f"{url}/v1/completions", json=body(ask)) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    told.last_s = time.perf_counter() - begin_s
                    told.first_s = told.last_s if not chunks else told.first_s
                    chunks.append(line)
                if leaves is not None and len(chunks) >= leaves:
                    answer.close()
                    return told
    except (aiohttp.ClientError, TimeoutError):
        return told
    parts = [json.loads(line.removeprefix(b"data: "))["choices"][0] for line in chunks]
    told.tokens = [token for part in parts for token in part["token_ids"]]
    told.reason = parts[-1]["finish_reason"] if parts else None
    return told


def body(ask: Ask) -> dict[str, object]:
    """As an OpenAI client sends it; token ids both ways, since the server has no tokenizer."""
    return {
        "model": NAME,
        "prompt": ask.prompt,
        "max_tokens": ask.max_tokens,
        "temperature": 0.0,
        "stream": True,
        "return_token_ids": True,
        "vllm_xargs": {HINT: ask.predicted, LENGTH: ask.output_tokens},
    }


def lost(load: Sequence[Ask], told: Sequence[Told]) -> int:
    """Requests without their whole output."""
    return sum(
        one.tokens is None or len(one.tokens) != ask.output_tokens or one.reason != "stop"
        for ask, one in zip(load, told, strict=True)
    )
