"""Five closed-loop loads for vLLM's own defaults (prefix caching on), as data and as clients that anything may serve.

A load is a list of sessions, a session a list of turns. Each of so many clients takes the next session from the list
when its last one has ended, so that every contender serves the same requests, whatever its speed. A prompt is the
whole conversation so far, the tokens really answered among it:

    for client in clients(load):                   # at the same time
        ask = client.next()
        while ask is not None:
            (wait for ask.think_s)
            ask = client.next(tokens answered)     # None where the request failed: its session ends
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

FIRST_TOKEN, VOCABULARY = 3, 1024  # token ids in use: those of `_live_model`, without its end-of-sequence token
BLOCK = 32  # tokens, as attention on the CPU wants it
SYSTEM_TOKENS = 448
OWN_TOKENS = 20, 60
OUTPUT_MEDIAN, OUTPUT_SIGMA, OUTPUT_TOKENS = 40.0, 0.7, (4, 250)
MAX_TOKENS = 256  # what clients ask for, whatever they get
TURNS, FIRST_PROMPT, LATER_PROMPT, THINK_S = (4, 9), (100, 300), (30, 120), 0.6
COLD_TOKENS, COLD_SHARE = (600, 900), 0.15
SPECIAL_SHARE = 0.1  # of the sessions of `mixed`, half with an adapter and half with structured output
ADAPTERS = 2
RAMP_S = 0.5  # within which clients come at the start
HINT_SIGMA = 0.6

PLAIN, LORA, STRUCTURED = "plain", "lora", "structured"


class Turn(NamedTuple):
    """One request, as its client knows it before the session begins."""

    think_s: float  # before it is sent, since the answer before it
    new: tuple[int, ...]  # tokens that the history grows by
    output_tokens: int  # that the answer has
    predicted: int  # a hint of it, should clients give one


class Session(NamedTuple):
    """Turns that build on each other; `kind` holds for all of them, `adapter` counts from 1 (0: none)."""

    turns: tuple[Turn, ...]
    kind: str = PLAIN
    adapter: int = 0


@dataclass(frozen=True)
class Load:
    """What clients do, and the pool they do it on."""

    name: str
    clients: int
    sessions: tuple[Session, ...]
    blocks: int = 240  # of `BLOCK` tokens
    seats: int = 128
    batched: int = 2048
    max_len: int = 2048
    max_tokens: int = MAX_TOKENS
    ramp_s: float = RAMP_S

    @property
    def requests(self) -> int:
        """In all."""
        return sum(len(session.turns) for session in self.sessions)


class Ask(NamedTuple):
    """One request, ready to be sent."""

    prompt: list[int]
    output_tokens: int
    max_tokens: int
    think_s: float
    predicted: int
    session: int  # in `Load.sessions`
    turn: int  # in its session, from 0
    turns: int  # of its session
    kind: str
    adapter: int


@dataclass
class Client:
    """One at a time; `sessions` is shared by all clients of a run."""

    sessions: Iterator[tuple[int, Session]]
    max_tokens: int
    ramp_s: float
    _now: tuple[int, Session] | None = None
    _turn: int = 0
    _history: list[int] = field(default_factory=list)

    def next(self, output: Sequence[int] | None = ()) -> Ask | None:
        """The next request, after the tokens answered to the last one; None: this client is done."""
        if self._now is not None:
            self._turn += 1
            if output is None or self._turn == len(self._now[1].turns):
                self._now = None
            else:
                self._history += output
        if self._now is None:
            self._now, self._turn, self._history = next(self.sessions, None), 0, []
        if self._now is None:
            return None
        number, session = self._now
        turn = session.turns[self._turn]
        self._history += turn.new
        wait_s, self.ramp_s = turn.think_s + self.ramp_s, 0.0
        place, size = self._turn, len(session.turns)
        length, prompt = turn.output_tokens, list(self._history)
        return Ask(
            prompt, length, self.max_tokens, wait_s, turn.predicted, number, place, size, session.kind, session.adapter
        )


def clients(load: Load) -> list[Client]:
    """All of a run; they come one after the other within `ramp_s`."""
    sessions = iter(list(enumerate(load.sessions)))
    return [Client(sessions, load.max_tokens, load.ramp_s * number / load.clients) for number in range(load.clients)]


@dataclass
class _Draw:
    """Random parts of a load, in order."""

    random: np.random.Generator
    system: tuple[int, ...] = ()

    def tokens(self, bounds: tuple[int, int]) -> tuple[int, ...]:
        size = self.random.integers(*bounds, endpoint=True)
        return tuple(self.random.integers(FIRST_TOKEN, VOCABULARY, size).tolist())

    def turn(self, new: tuple[int, ...], think_s: float = 0.0) -> Turn:
        drawn = np.exp(self.random.normal(np.log(OUTPUT_MEDIAN), OUTPUT_SIGMA))
        output = int(np.clip(drawn, *OUTPUT_TOKENS))
        predicted = max(int(output * np.exp(self.random.normal(0.0, HINT_SIGMA))), 1)
        return Turn(think_s, new, output, predicted)

    def shared(self) -> Session:
        """The system prompt and a question."""
        return Session((self.turn(self.system + self.tokens(OWN_TOKENS)),))

    def conversation(self) -> Session:
        """Several turns, each after a pause to think."""
        size = int(self.random.integers(*TURNS, endpoint=True))
        bounds = [FIRST_PROMPT] + [LATER_PROMPT] * (size - 1)
        return Session(tuple(self.turn(self.tokens(one), float(self.random.exponential(THINK_S))) for one in bounds))

    def mixed(self, conversations: float) -> Session:
        """As many requests of conversations as others; some sessions are of a special kind."""
        session = self.conversation() if self.random.random() < conversations else self.shared()
        special, adapter = self.random.random(), int(self.random.integers(1, ADAPTERS, endpoint=True))
        if special < 0.5 * SPECIAL_SHARE:
            return session._replace(kind=LORA, adapter=adapter)
        return session._replace(kind=STRUCTURED) if special < SPECIAL_SHARE else session

    def cold(self) -> Session:
        """Mostly short requests with the same system prompt, some long ones with nothing to share."""
        if self.random.random() < COLD_SHARE:
            return Session((self.turn(self.tokens(COLD_TOKENS)),))
        return self.shared()


_MEAN_TURNS = 0.5 * sum(TURNS)
_CONVERSATIONS = 1.0 / (1.0 + _MEAN_TURNS)  # of the sessions of `mixed`
_KINDS: dict[str, tuple[int, int, Callable[[_Draw], Session]]] = {  # clients, blocks, and a session
    "shared": (90, 240, _Draw.shared),
    "sessions": (40, 240, _Draw.conversation),
    "mixed": (60, 240, lambda draw: draw.mixed(_CONVERSATIONS)),
    "light": (16, 960, _Draw.conversation),
    "cold": (60, 240, _Draw.cold),
}
NAMES = tuple(_KINDS)


def make_load(name: str, requests: int, seed: int) -> Load:
    """One of `NAMES`, with so many requests or a few more, so that sessions are whole. Deterministic in the seed."""
    many, blocks, session = _KINDS[name]
    draw = _Draw(np.random.default_rng([seed, NAMES.index(name)]))
    draw.system = draw.tokens((SYSTEM_TOKENS, SYSTEM_TOKENS))
    sessions: list[Session] = []
    drawn = 0
    while drawn < requests:
        sessions.append(session(draw))
        drawn += len(sessions[-1].turns)
    return Load(name, many, tuple(sessions), blocks)
