"""What evictions cost, exactly: tokens prefilled again, their FLOPs and seconds, per request and in all.

High-water-mark rule. At an eviction, h = max(h, min(computed, known tokens)) positions had been computed. A later chunk
[start, start + k) computes  min(start + k, h) − start  of them again, where that is positive; what a prefix cache or a
reload gave back lies before `start` and is no recompute. h is forgotten once a chunk passes it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvhorizon.models.performance.flops import head_flops, prefill_flops
from kvhorizon.models.performance.shape import ModelShape
from kvhorizon.models.performance.step_time import recompute_seconds
from kvhorizon.state import StepCost

MOST_UNCOUNTED = 512  # ended requests whose FLOPs may wait until they are asked for


@dataclass(slots=True)
class Tally:
    """Of one request, or of all."""

    preemptions: int = 0
    recompute_tokens: int = 0
    restored_tokens: int = 0  # evicted, then found in the prefix cache or reloaded
    wasted_flops: float = 0.0  # of the tokens recomputed
    recompute_s: float = 0.0  # by the step-time model


_NOTHING = Tally()  # of all that were never evicted


@dataclass(slots=True)
class _Evicted:
    mark: int  # h, tokens
    tally: Tally
    resumed: bool = False  # a chunk was scheduled since the last eviction


@dataclass(slots=True)
class Accounting:
    """Counts of one engine. `on_finished` is told of each request that ends, with its tally; that is not to change."""

    shape: ModelShape | None  # None: FLOPs stay 0
    cost: StepCost
    on_finished: Callable[[Any, Tally], None] | None = None
    total: Tally = field(default_factory=Tally)
    finished: int = 0
    output_tokens: int = 0  # that those had generated
    _useful_flops: float = 0.0  # of finished requests, but for those uncounted
    _uncounted: deque[Any] = field(default_factory=deque)
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _evicted: dict[str, _Evicted] = field(default_factory=dict)
    behind: dict[str, _Evicted] = field(default_factory=dict)  # those of them below their mark
    back: dict[str, _Evicted] = field(default_factory=dict)  # those of these that were scheduled again

    @property
    def useful_flops(self) -> float:
        """Of finished requests, each prompt and output token once; 0 where the model's shape is unknown.

        Counted here, for whoever asks beside the step.
        """
        with self._counting:
            for _ in range(len(self._uncounted)):
                request = self._uncounted.popleft()
                prompt, output = request.num_prompt_tokens, request.num_output_tokens
                self._useful_flops += _useful_flops(self.shape, prompt, output) if self.shape is not None else 0.0
            return self._useful_flops

    @property
    def preemption_frequency(self) -> float:
        """Evictions per finished request; 0 before any has finished."""
        return self.total.preemptions / self.finished if self.finished else 0.0

    @property
    def recompute_fraction(self) -> float:
        """FLOPs of recompute / all FLOPs, of finished requests; 0 where FLOPs are unknown."""
        spent = self.useful_flops + self.total.wasted_flops
        return self.total.wasted_flops / spent if spent > 0.0 else 0.0

    @property
    def tracked(self) -> int:
        """Live requests with a record; others cost nothing to keep."""
        return len(self._evicted)

    def preempting(self, request: Any) -> None:
        """The request is about to lose its KV; call it before the engine resets the request."""
        known = self._evicted.setdefault(request.request_id, _Evicted(0, Tally()))
        known.mark = max(known.mark, min(request.num_computed_tokens, request.num_tokens))
        known.resumed = False
        self.back.pop(request.request_id, None)
        self.behind[request.request_id] = known
        known.tally.preemptions += 1
        self.total.preemptions += 1

    def scheduled(
        self, num_tokens: Mapping[str, int], requests: Mapping[str, Any], joined: Iterable[str] | None = None
    ) -> None:
        """The step computes `num_tokens` of each request; call it before the engine moves the requests on.

        `joined`: those of the waiting that may be among them; None: any.
        """
        behind = self.behind
        names = behind if joined is None else {**self.back, **{one: behind[one] for one in joined if one in behind}}
        for name in list(filter(num_tokens.__contains__, names)):
            known = self.back[name] = self.behind[name]
            self._chunk(known, requests[name].num_computed_tokens, num_tokens[name])
            if known.mark == 0:
                del self.behind[name], self.back[name]

    def release(self, request: Any) -> None:
        """The request is over, finished or aborted."""
        tally, name = _NOTHING, request.request_id
        if name in self._evicted:
            tally = self._evicted.pop(name).tally
            self.behind.pop(name, None)
            self.back.pop(name, None)
        self.finished += 1
        self.output_tokens += request.num_output_tokens
        self._uncounted.append(request)
        if self.on_finished is not None:
            self.on_finished(request, tally)
        if len(self._uncounted) > MOST_UNCOUNTED:  # nothing asks
            _ = self.useful_flops

    def _chunk(self, known: _Evicted, start: int, tokens: int) -> None:
        if not known.resumed:
            known.resumed = True
            self._add(known.tally, restored=min(start, known.mark))
        end = min(start + tokens, known.mark)
        if end > start:
            self._add(known.tally, start, end)
        if start + tokens >= known.mark:
            known.mark = 0

    def _add(self, tally: Tally, start: int = 0, end: int = 0, restored: int = 0) -> None:
        flops = prefill_flops(self.shape, start, end - start) if self.shape is not None else 0.0
        seconds = float(recompute_seconds(self.cost, start, end)) if end > start else 0.0
        for one in (tally, self.total):
            one.recompute_tokens += end - start
            one.restored_tokens += restored
            one.wasted_flops += flops
            one.recompute_s += seconds


def _useful_flops(shape: ModelShape, prompt: int, output: int) -> float:
    """Each position once: the prompt, then every output token but the last, which is never fed back [FLOP]."""
    fed = prompt + max(output - 1, 0)
    return prefill_flops(shape, 0, fed) + head_flops(shape) * output
