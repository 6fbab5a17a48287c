"""vLLM's real scheduler, with or without the real scheduler plugin, under a virtual clock: closed-loop clients, steps
priced by a step-time model, a real solver child, no model and no noise.

    python -m experiments._virtual_drive --load shared --contender rules --seeds 100,101 --model tiny --requests 1500
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from experiments.virtual._virtual_requests import GRAMMAR_S, answer_of, compile_grammar, hasher, request_of  # isort: skip

from experiments.engine._plugin_driver import sampled_by_model
from experiments.engine._plugin_engine import Setup, make
from experiments.live.defaults._defaults_loads import BLOCK, Ask, Client, Load, clients
from experiments.virtual._virtual_clock import DELAY_S, LockstepSession, VirtualClock, move_in
from kvhorizon.adapter import factory as start
from kvhorizon.adapter.planning.session import SolverLike
from kvhorizon.models.performance.step_time import step_seconds
from kvhorizon.state import StepCost
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.resilient import ResilientSolver

WORK = 100  # units of the child's budget: every part runs to its usual end
IDLE_S = 0.001  # of a step in which requests wait and none is run
DEADLINE_S = 60.0
CORES = 2  # of the machine whose plugin this is: they bound how often plans are asked for

MODELS = {
    # hidden 256, 2 layers, float32 on a CPU, as measured: a 500-token prefill costs four steps of 50 decodes
    "tiny": StepCost(
        2.4e-3,
        0.0,
        linear_s_per_token=4.0e-5,
        attention_s_per_pair=3.2e-8,
        kv_read_s_per_token=2.2e-7,
        sequence_s=3.4e-5,
    ),
    # hidden 512, 8 layers, bfloat16, likewise: six
    "heavy": StepCost(
        5.3e-3,
        0.0,
        linear_s_per_token=1.9e-4,
        attention_s_per_pair=2.9e-7,
        kv_read_s_per_token=6.3e-7,
        sequence_s=4.6e-5,
    ),
}


@dataclass(frozen=True)
class Contender:
    """Who schedules: vLLM with a watermark, or our plugin with its settings and, if it is to have plans, a child."""

    plugin: bool = False
    watermark: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    delay_s: float = DELAY_S
    cores: int = CORES
    hints: bool = False
    knows_cost: bool = False  # the plugin prices steps as this engine does, not as the model's preset would

    @property
    def plans(self) -> bool:
        """Whether a solver is asked."""
        return self.plugin and not self.settings.get("local_only", False)


CONTENDERS = {
    "plain": Contender(),
    "watermark": Contender(watermark=0.02),
    "rules": Contender(plugin=True, settings={"local_only": True}),
    "program": Contender(plugin=True, settings={"local_only": False}),
}


@dataclass
class Seen:
    """One request, as its client saw it; seconds of the virtual clock."""

    ask: Ask
    sent_s: float
    first_s: float = float("nan")
    last_s: float = float("nan")
    found: int = -1  # prompt tokens in the prefix cache when first admitted
    preemptions: int = 0


@dataclass
class Totals:
    """Of a run."""

    steps: int = 0
    busy_s: float = 0.0
    prefill_tokens: int = 0  # computed, again or for the first time
    asked: int = 0  # plans
    ladder: dict[str, int] = field(default_factory=dict)


@contextmanager
def solver_child(work: int = WORK) -> Iterator[ResilientSolver]:
    """A child that plans in work units, for one run after the other."""
    options = ["--work", str(work), "--knob", "balanced"]
    with ResilientSolver(lambda: SolverChild(options), DEADLINE_S) as solver:
        yield solver


@contextmanager
def priced_as(cost: StepCost) -> Iterator[None]:
    """Plugins put together meanwhile take this for their engine's step cost."""
    before = start.price
    start.price = lambda *_: cost
    try:
        yield
    finally:
        start.price = before


class Drive:
    """One engine and its clients; a solver is for contenders that have plans.

    Given `arrivals`, the requests of another run come when they came there, whatever becomes of them here.
    """

    def __init__(
        self,
        load: Load,
        contender: Contender,
        cost: StepCost,
        solver: SolverLike | None = None,
        caching: bool = True,
        arrivals: Sequence[Seen] | None = None,
    ) -> None:
        self.clock, self.cost, self.contender = VirtualClock(), cost, contender
        self.seen: list[Seen] = []
        self.totals = Totals()
        adapters = 1 if any(session.adapter for session in load.sessions) else 0
        setup = Setup(
            blocks=load.blocks,
            seats=load.seats,
            batched=load.batched,
            max_len=load.max_len,
            caching=caching,
            watermark=contender.watermark,
            plugin=contender.plugin,
            settings=contender.settings,
            block_size=BLOCK,
            adapters=adapters,
        )
        with priced_as(cost) if contender.knows_cost else nullcontext():
            self.scheduler: Any = make(setup)
        self.plugin = getattr(self.scheduler, "kvhorizon", None)
        self.session: LockstepSession | None = None
        if self.plugin is not None:
            child = solver if contender.plans else None
            self.session = move_in(self.plugin, self.clock, child, contender.delay_s, contender.cores)
        self._hasher = hasher() if caching else None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = count()
        self._live: dict[str, tuple[Seen, Client | None, list[int], Any]] = {}
        for one in arrivals or ():
            self._at(one.sent_s, partial(self._send, None, one.ask))
        for client in clients(load) if arrivals is None else ():
            self._ask(client, client.next())

    def run(self) -> list[Seen]:
        """Until all clients are done."""
        with self.clock.installed():
            while self._next():
                self._step()
        if self.plugin is not None:
            self.totals.ladder = dict(self.plugin.ladder)
            self.totals.asked = self.session.asked if self.session else 0
        self.scheduler.shutdown()
        return self.seen

    def _ask(self, client: Client, ask: Ask | None) -> None:
        if ask is not None:
            self._at(self.clock.now_s + ask.think_s, lambda: self._send(client, ask))

    def _at(self, time_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._ties), event))

    def _send(self, client: Client | None, ask: Ask) -> None:
        name, seen = f"r{len(self.seen)}", Seen(ask, self.clock.now_s)
        request = request_of(name, ask, self.clock.time(), self._hasher, self.contender.hints)
        self.seen.append(seen)
        self._live[name] = seen, client, answer_of(ask), request
        compiled = compile_grammar(request)
        if compiled is not None:
            self._at(self.clock.now_s + GRAMMAR_S, compiled)
        self.scheduler.add_request(request)

    def _next(self) -> bool:
        """All events whose time has come, and the next one if the engine has nothing to do; False at the end."""
        clock, events = self.clock, self._events
        if not self.scheduler.has_requests():
            if not events:
                return False
            clock.now_s = max(clock.now_s, events[0][0])
        while events and events[0][0] <= clock.now_s:
            time_s, _, event = heapq.heappop(events)
            now_s, clock.now_s = clock.now_s, time_s  # a request comes while a step runs
            event()
            clock.now_s = now_s
        return True

    def _step(self) -> None:
        if self.session is not None:
            self.session.deliver()
        scheduled = self.scheduler.schedule()
        for new in scheduled.scheduled_new_reqs:
            self._live[new.req_id][0].found = new.num_computed_tokens
        sampled = self._price(scheduled.num_scheduled_tokens)
        self._finish(scheduled, sampled)

    def _price(self, tokens: dict[str, int]) -> list[bool]:
        """Let the step's time pass; returns which requests give a token."""
        prefill = decodes = pairs = kv = 0
        sampled, requests = [], self.scheduler.requests
        for name, size in tokens.items():
            request = requests[name]
            begun = request.num_computed_tokens - size
            sampled.append(not request.is_prefill_chunk)
            if size == 1:
                decodes += 1
                kv += begun + 1
            else:
                prefill += size
                pairs += size * (2 * begun + size + 1)
        if tokens:
            took_s = float(step_seconds(self.cost, prefill, 0.5 * pairs, decodes, float(kv), len(tokens)))
            self.clock.now_s += took_s
            self.totals.busy_s += took_s
            self.totals.steps += 1
            self.totals.prefill_tokens += prefill
        elif self.scheduler.has_unfinished_requests():
            self.clock.now_s += IDLE_S
        return sampled

    def _finish(self, scheduled: Any, sampled: list[bool]) -> None:
        """The step's tokens come out."""
        names, live, now_s = list(scheduled.num_scheduled_tokens), self._live, self.clock.now_s
        tokens = []
        for name, gives in zip(names, sampled, strict=True):
            seen, _, answer, request = live[name]
            tokens.append([answer[request.num_output_tokens]] if gives else [])
            if gives and request.num_output_tokens == 0:
                seen.first_s = now_s
        result = sampled_by_model(names, tokens)
        for outputs in self.scheduler.update_from_output(scheduled, result).values():
            for one in outputs.outputs:
                if one.finish_reason is not None:
                    seen, client, answer, request = live.pop(one.request_id)
                    seen.last_s, seen.preemptions = now_s, request.num_preemptions
                    if client is not None:
                        self._ask(client, client.next(answer))


if __name__ == "__main__":
    from experiments.virtual._virtual_figures import main

    main()
