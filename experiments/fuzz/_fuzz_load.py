"""The requests of one fuzzed engine: text, LoRA, structured output and images, shared prefixes and later turns."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from experiments.engine._plugin_kinds import Kind, Maker

SHARED = 64  # tokens that begin every prompt, with prefix caching
MOST_TOKENS = 1000  # of a conversation, so that it fits the smallest pool
ADAPTERS = 5


class Load:
    """`requests` are all that were made; those to come are taken from `arriving`."""

    def __init__(self, count: int, seed: int, caching: bool, loras: bool, images: bool) -> None:
        self._rng = rng = random.Random(seed)
        self._maker, self._caching = Maker(caching=caching), caching
        self._kinds: dict[str, Kind] = {}
        self._going: list[Any] = []
        self.requests: list[Any] = []
        self.arriving: deque[Any] = deque()
        self.turns = 0
        self.refused: set[str] = set()  # their grammar failed
        for number in range(count):
            tokens = [5] * SHARED * caching + self._tokens(10, 300)
            image = (f"i{rng.randrange(12)}", rng.choice([0, 6]), 32)
            kind = Kind(
                lora=rng.randrange(ADAPTERS + 1) if loras else 0,
                structured=rng.random() < 0.2,
                images=(image,) if images and len(tokens) > 40 and rng.random() < 0.2 else (),
                priority=rng.randrange(4),
            )
            self._make(f"r{number}", tokens, kind)

    def step(self, scheduler: Any) -> None:
        """Grammars come, one in ten of them fails; some of the conversations that ended go on."""
        rng = self._rng
        for name in [name for name in self._maker.grammars if rng.random() < 0.2]:
            if name in scheduler.requests:
                failed = rng.random() < 0.1
                self.refused |= {name} if failed else set()
                self._maker.compiled(name, ValueError("planted") if failed else None)
        ended = [request for request in self._going if request.is_finished()]
        if ended:
            self._going = [request for request in self._going if not request.is_finished()]
            for request in ended:
                self._go_on(request)

    def arrive(self) -> Any:
        """The next request."""
        request = self.arriving.popleft()
        self._going.append(request)
        return request

    def _go_on(self, request: Any) -> None:
        tokens = list(request.all_token_ids)
        if not self._caching or request.status.name != "FINISHED_LENGTH_CAPPED" or self._rng.random() < 0.7:
            return
        if len(tokens) < MOST_TOKENS // 2:
            self.turns += 1
            self._make(f"{request.request_id}+", tokens + self._tokens(5, 100), self._kinds[request.request_id])

    def _make(self, name: str, tokens: list[int], kind: Kind) -> None:
        self._kinds[name] = kind
        self.requests.append(self._maker.request(name, tokens, self._rng.randint(5, 150), kind))
        self.arriving.append(self.requests[-1])

    def _tokens(self, least: int, most: int) -> list[int]:
        return [self._rng.randint(3, 1000) for _ in range(self._rng.randint(least, most))]
