"""Clients of a closed loop (`_defaults_loads`) at an OpenAI server, and what each saw.

They give no hints, as most clients do. A later turn's prompt holds the tokens that were really answered before it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from experiments.live.defaults._defaults_loads import LORA, STRUCTURED, Ask, Client, Load, clients
from experiments.live.defaults._defaults_models import ADAPTERS
from experiments.live.serving._live_load import LIMIT_S
from experiments.live.serving._live_model import LENGTH
from experiments.live.serving._live_server import NAME

GRAMMARS = 26  # of structured output; each is compiled when it is first asked for


@dataclass
class Seen:
    """One request as its client saw it; seconds since the load began."""

    ask: Ask
    sent_s: float
    answer_s: list[float] = field(default_factory=list)  # of each answer: the first token, then some at a time
    tokens: list[int] | None = None  # None: it failed
    reason: str | None = None

    @property
    def whole(self) -> bool:
        """It has all of its output."""
        return self.tokens is not None and len(self.tokens) == self.ask.output_tokens and self.reason == "stop"


@dataclass
class Loop:
    """A load as it went: its requests by the time they ended, and when the first client found no further session.

    From then on the others only finish the request that they are at, so that there is no tail of few clients. Clients
    beyond the number of sessions do not count.
    """

    begin_s: float
    seen: list[Seen] = field(default_factory=list)
    asked: int = 0
    full_s: float = float("inf")

    def now_s(self) -> float:
        """Since the load began."""
        return time.perf_counter() - self.begin_s


def run(url: str, load: Load, expect: Callable[[int], None]) -> Loop:
    """The load while all clients are at work; `expect` is told how many requests there will have been."""
    return asyncio.run(_run(url, load, expect))


async def _run(url: str, load: Load, expect: Callable[[int], None]) -> Loop:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # the server ends idle connections whenever it likes
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    expect(load.requests)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        loop = Loop(time.perf_counter())
        await asyncio.gather(*(_client(session, url, client, loop, expect) for client in clients(load)))
    return loop


async def _client(
    session: aiohttp.ClientSession, url: str, client: Client, loop: Loop, expect: Callable[[int], None]
) -> None:
    """One request at a time until some client finds no further session."""
    ask = client.next()
    idle = ask is None
    while ask is not None:
        loop.asked += 1
        await asyncio.sleep(ask.think_s)
        one = await _one(session, url, ask, loop)
        loop.seen.append(one)
        ask = client.next(one.tokens) if loop.full_s == float("inf") else None
    if not idle and loop.full_s == float("inf"):
        loop.full_s = loop.now_s()
        expect(loop.asked)


async def _one(session: aiohttp.ClientSession, url: str, ask: Ask, loop: Loop) -> Seen:
    seen, lines = Seen(ask, loop.now_s()), []
    try:
        async with session.post(f"{url}/v1/completions", json=body(ask)) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    seen.answer_s.append(loop.now_s())
                    lines.append(line)
        parts = [json.loads(line.removeprefix(b"data: "))["choices"][0] for line in lines]
    except (aiohttp.ClientError, TimeoutError, KeyError):
        return seen
    if parts:
        seen.tokens = [token for part in parts for token in part["token_ids"]]
        seen.reason = parts[-1]["finish_reason"]
    return seen


def body(ask: Ask) -> dict[str, Any]:
    """As an OpenAI client sends it; token ids both ways, and the true length by a route that no forecast reads."""
    found: dict[str, Any] = {
        "model": ADAPTERS[ask.adapter - 1] if ask.kind == LORA else NAME,
        "prompt": ask.prompt,
        "max_tokens": ask.max_tokens,
        "temperature": 0.0,
        "stream": True,
        "return_token_ids": True,
        "vllm_xargs": {LENGTH: ask.output_tokens},
    }
    if ask.kind == STRUCTURED:  # it may end after any token, since lengths are given
        found["structured_outputs"] = {"regex": f"[a-z {chr(ord('A') + ask.session % GRAMMARS)}]*"}
    return found
