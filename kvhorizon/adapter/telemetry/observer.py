"""What the step tells of itself: it appends to queues and adds to counters, and a thread beside it does the rest.

Times of day come from the engine's clock. A first token is seen when the next step is scheduled, right after the step
that gave it; a last one when the request is released.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from kvhorizon.adapter.accounting.recomputation import Tally
from kvhorizon.adapter.control.decision_log import Decision
from kvhorizon.adapter.forecasting.hints import MAX_CHARACTERS, SESSION, SLO_CLASS, TENANT
from kvhorizon.adapter.forecasting.keys import sampling_of
from kvhorizon.adapter.guard import Guard, guarded
from kvhorizon.adapter.modes import Mode
from kvhorizon.adapter.telemetry.canary import Counts, Windows

if TYPE_CHECKING:
    from kvhorizon.adapter.plugin import Plugin

QUEUE_LIMIT = 65_536  # requests not yet taken by the thread, should it hang
Over = tuple[Any, Tally, float | None, float, Mode]  # a request that nothing changes any more; its first token, its end
LONGEST_STEP_S = 10.0  # a longer gap between steps is idleness
_REASONS = {"FINISHED_STOPPED": "stop", "FINISHED_LENGTH_CAPPED": "length", "FINISHED_ABORTED": "abort"}


class Ended(NamedTuple):
    """One request that is over."""

    request_id: str
    prompt_tokens: int
    output_tokens: int
    tally: Tally
    arrival_s: float  # time of day
    first_s: float | None  # time of day of its first token
    end_s: float  # time of day
    max_tokens: int
    priority: int
    tenant: str  # as the client gave it
    finish: str
    mode: str
    block_hashes: tuple[Any, ...]  # of the prompt's full blocks, where the engine has them and some reader wants them
    session: str  # as the client gave it
    sampling: int  # as `adapter.forecasting.keys.sampling_of` has it
    slo_class: str  # as the client gave it

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first token."""
        return None if self.first_s is None else max(self.first_s - self.arrival_s, 0.0)

    @property
    def tpot_s(self) -> float | None:
        """Mean between later tokens, where there are any."""
        later = self.output_tokens - 1
        if self.first_s is None or later < 1:
            return None
        return max(self.end_s - max(self.first_s, self.arrival_s), 0.0) / later


class Observer:
    """Of one plugin. `over` is emptied by the thread, with `ended`; the counters only grow."""

    def __init__(
        self,
        plugin: Plugin,
        wants_hashes: bool = False,
        windows: Windows | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.guard = Guard("telemetry")
        self.over: deque[Over] = deque(maxlen=QUEUE_LIMIT)
        self.admissions: Counter[str] = Counter()  # first ones, by who decided the step
        self.preemptions: Counter[str] = Counter()  # by who chose the victim
        self.recompute_measured_s = 0.0  # of steps, by the share of their tokens that were computed again
        self._plugin = plugin
        self._wants_hashes = wants_hashes
        self._windows = windows  # of the canary, where there is one
        self._clock, self._wall = clock, wall
        self._awaited: dict[str, Any] = {}  # scheduled, without a token yet
        self._first_s: dict[str, float] = {}
        self._recomputed = 0  # tokens, up to the step before
        self._share = 0.0  # of the last step's tokens, that were computed again
        self._step_s = 0.0  # when it was scheduled
        self.watching = windows is not None  # this step's `scheduled` is wanted though it tells nothing new
        self._tokens = 0  # computed, again or not
        self._firsts, self._ttft_s = 0, 0.0  # requests that gave a first token, and how long theirs took in all

    @property
    def live(self) -> int:
        """Requests of which something is kept."""
        return len(self._awaited) + len(self._first_s)

    @guarded
    def scheduled(self, output: Any) -> None:
        """A step is scheduled and accounted for."""
        plugin, now_s = self._plugin, self._clock()
        if self._share > 0.0:
            self.recompute_measured_s += min(max(now_s - self._step_s, 0.0), LONGEST_STEP_S) * self._share
        tokens = plugin.accounting.total.recompute_tokens
        self._share = (tokens - self._recomputed) / max(output.total_num_scheduled_tokens, 1)
        self._recomputed, self._step_s = tokens, now_s
        if self._awaited:
            self._see_first_tokens()
        if self._windows is not None:
            self._windows.step(plugin.now(), plugin.mode, self._counts())
        self._tokens += output.total_num_scheduled_tokens
        if output.scheduled_new_reqs:
            requests = plugin.engine.scheduler.requests
            for new in output.scheduled_new_reqs:
                self._awaited[new.req_id] = requests[new.req_id]
            by = "vllm" if plugin.alone or plugin.mode is not Mode.CONTROL else plugin.plans.source
            self.admissions[by] += len(output.scheduled_new_reqs)
        self.watching = bool(self._awaited) or self._share > 0.0 or self._windows is not None

    @guarded
    def preempting(self, request: Any) -> None:
        """The request is about to be evicted: the choice is in the log already, unless it is vLLM's own."""
        plugin = self._plugin
        control = plugin.control
        by = control.log.carried_out(control.step, request.request_id)
        if by is None:
            by, engine = "vllm", plugin.engine
            running, blocks = len(engine.scheduler.running), -(-request.num_computed_tokens // engine.block_size)
            why = (
                f"{engine.free_blocks} blocks were free when one of {running} running requests wanted more; it came "
                f"last in vLLM's own order, held {blocks} blocks, and {request.num_computed_tokens} tokens are lost"
            )
            control.log.note(Decision(plugin.now(), control.step, request.request_id, "evicted", by, why))
        self.preemptions[by] += 1

    @guarded
    def released(self, request: Any, tally: Tally) -> None:
        """The request is over."""
        now_s, name = self._wall(), request.request_id
        first_s = self._first_s.pop(name, None)
        if first_s is None and self._awaited.pop(name, None) is not None and request.num_output_tokens > 0:
            first_s = self._first(request, now_s)
        self.over.append((request, tally, first_s, now_s, self._plugin.mode))

    def ended(self) -> list[Ended]:
        """Requests that are over since the last call, which is not the step's."""
        return [self._told(self.over.popleft()) for _ in range(len(self.over))]

    def _told(self, over: Over) -> Ended:
        request, tally, first_s, end_s, mode = over
        parameters, status = request.sampling_params, request.status.name
        extra = (parameters.extra_args if parameters is not None else None) or {}
        hashes: tuple[Any, ...] = ()
        if self._wants_hashes:
            hashes = tuple(request.block_hashes[: request.num_prompt_tokens // self._plugin.engine.block_size])
        return Ended(
            request.request_id,
            request.num_prompt_tokens,
            request.num_output_tokens,
            tally,
            request.arrival_time,
            first_s,
            end_s,
            request.max_tokens,
            request.priority,
            str(extra.get(TENANT, ""))[:MAX_CHARACTERS],
            _REASONS.get(status, status.removeprefix("FINISHED_").lower()),
            mode.value,
            hashes,
            str(extra.get(SESSION, ""))[:MAX_CHARACTERS],
            sampling_of(request),
            str(extra.get(SLO_CLASS, ""))[:MAX_CHARACTERS],
        )

    def _see_first_tokens(self) -> None:
        now_s = self._wall()
        for name in [name for name, request in self._awaited.items() if request.num_output_tokens > 0]:
            self._first_s[name] = self._first(self._awaited.pop(name), now_s)

    def _first(self, request: Any, now_s: float) -> float:
        """The request has given its first token; returns when."""
        self._firsts += 1
        self._ttft_s += max(now_s - request.arrival_time, 0.0)
        return now_s

    def _counts(self) -> Counts:
        """Up to the step that is being scheduled."""
        accounting = self._plugin.accounting
        total = accounting.total
        return Counts(
            accounting.finished,
            total.preemptions,
            total.recompute_tokens,
            self._tokens - total.recompute_tokens,
            self._firsts,
            self._ttft_s,
        )
