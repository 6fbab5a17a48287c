"""How a request becomes a row: its age, its limit, what its client said of its length."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kvhorizon.adapter.engine import Engine, steerable
from kvhorizon.adapter.forecast import key_of
from kvhorizon.adapter.hints import Hint, read_hint
from kvhorizon.adapter.rows import Rows
from kvhorizon.errors import InputError

AGE_LIMIT_S = 3600.0  # of a request when it reaches the scheduler; more is a clock gone wrong


class Intake:
    """Of one engine. `hints` counts those `used` and `ignored`."""

    def __init__(self, engine: Engine, rows: Rows) -> None:
        self.engine, self.rows = engine, rows
        self.hints: Counter[str] = Counter()

    def add(self, request: Any, now_s: float, wall_s: float) -> bool:
        """A row for a request that came to the queue; False for one that is known and got more input.

        `now_s` is the guest's clock, `wall_s` the time of day.
        """
        if request.request_id in self.rows.slot_of:
            return False
        hint = self._hint(request)
        age_s = min(max(wall_s - request.arrival_time, 0.0), AGE_LIMIT_S)
        limit = max(min(request.max_tokens, self.engine.max_model_len - request.num_prompt_tokens), 1)
        key = key_of(request.num_prompt_tokens, hint)
        self.rows.add(request, now_s - age_s, limit, key, hint, steerable(request))
        return True

    def rebuild(self, now_s: float, wall_s: float) -> None:
        """All rows from the engine's own requests, after an error or an absence."""
        rows, scheduler = self.rows, self.engine.scheduler
        for name in list(rows.slot_of):
            rows.release(name)
        for request in list(scheduler.requests.values()):
            if not request.is_finished():
                self.add(request, now_s, wall_s)
        for request in scheduler.running:
            rows.take(rows.slot_of[request.request_id], now_s)

    def _hint(self, request: Any) -> Hint | None:
        parameters = request.sampling_params
        try:
            hint = read_hint(parameters.extra_args if parameters is not None else None)
        except InputError:
            self.hints["ignored"] += 1
            return None
        if hint is not None:
            self.hints["used"] += 1
        return hint
