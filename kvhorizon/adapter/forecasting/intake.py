"""What the step tells the forecaster of a request: who it is when it comes, how long it became when it is over."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

from kvhorizon.adapter.control.weights import Weights
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.hints import Hint, read_class, read_hint, read_tenant
from kvhorizon.adapter.forecasting.keys import hint_leaf, leaf_of
from kvhorizon.adapter.kinds.grammars import Grammars
from kvhorizon.adapter.kinds.kinds import steerable
from kvhorizon.errors import InputError
from kvhorizon.models.slo.classes import NONE, PLAIN, SloClass

AGE_LIMIT_S = 3600.0  # of a request when it reaches the scheduler; more is a clock gone wrong
UNKNOWN = "(unknown)"  # class of a request that asks for one that is not there


class Intake:
    """Of one engine. `hints` counts those used and those ignored, `named` the classes that requests asked for."""

    def __init__(self, engine: Engine, rows: Rows, forecaster: Forecaster) -> None:
        self.hints: Counter[str] = Counter()
        self.classes = NONE
        self.weights: Weights | None = None
        self.named: Counter[str] = Counter()  # by class; `UNKNOWN` for one that is not among them
        self.outside: dict[str, tuple[Any, float]] = {}  # came, and have no row yet: with when they arrived
        self.urgent = False  # one of them is not ours to admit
        self.grammars = Grammars()  # of some of them, which get no row before
        self._engine, self._rows, self._forecaster = engine, rows, forecaster
        self._groups = forecaster.groups

    def add(self, request: Any, now_s: float, wall_s: float) -> bool:
        """Note a request that came to the queue; False for one that is known and got more input.

        `now_s` is the plugin's clock, `wall_s` the time of day.
        """
        if request.request_id in self._rows.slot_of or request.request_id in self.outside:
            return False
        age_s = min(max(wall_s - request.arrival_time, 0.0), AGE_LIMIT_S)
        self.outside[request.request_id] = request, now_s - age_s
        if steerable(request):
            self.grammars.note(request)
        else:
            self.urgent = True
        if self._groups is not None:
            self._groups.arrived(request, wall_s - AGE_LIMIT_S, wall_s)
        return True

    def enter(self, most: int = 1 << 30) -> list[int]:
        """Rows for those who came first, at most so many; their slots."""
        self.urgent = len(self.outside) > most and self.urgent
        grammars = self.grammars
        names = (name for name in self.outside if name not in grammars) if grammars else iter(self.outside)
        return [self.slot(name) for name in list(islice(names, most))]

    @property
    def num_entering(self) -> int:
        """Requests that may get their row."""
        return len(self.outside) - len(self.grammars)

    def slot(self, name: str) -> int:
        """Of a request; it gets its row if it has none yet. Raises KeyError for a stranger."""
        if name not in self.outside:
            return self._rows.slot_of[name]
        self.grammars.leave(name)
        return self._enter(*self.outside.pop(name))

    def _enter(self, request: Any, arrival_s: float) -> int:
        rows = self._rows
        tenant, hint = self._said(request)
        room = max(self._engine.max_model_len - request.num_prompt_tokens, 1)
        limit = max(min(request.max_tokens, room), 1)
        group = self._groups.of(request.request_id) if self._groups is not None else -1
        leaf = leaf_of(request, tenant, hint, limit, room, group)
        told, tokens = hint_leaf(leaf, hint), hint.tokens if hint is not None else 0.0
        slo_class = self._class(request)
        weight = slo_class.weight
        slot = rows.add(request, arrival_s, limit, leaf, told, tokens, steerable(request), weight)
        if self.weights is not None:
            self.weights.note(slot, tenant, weight, slo_class.ttft_s)
        self._forecaster.arrived(int(rows.extra.handle[slot]), leaf, told, tokens, limit)
        return slot

    def rebuild(self, now_s: float, wall_s: float) -> None:
        """All rows from the engine's own requests, after an error or an absence."""
        rows, scheduler = self._rows, self._engine.scheduler
        self.outside.clear()
        self.grammars.clear()
        for name in list(rows.slot_of):
            rows.release(name)
        if self._groups is not None:
            self._groups.keep(scheduler.requests)
        for request in list(scheduler.requests.values()):
            if not request.is_finished():
                self.add(request, now_s, wall_s)
        self.enter()
        for request in scheduler.running:
            rows.take(rows.slot_of[request.request_id], now_s)

    def ended(self, slot: int, request: Any) -> None:
        """The request is over; how long it became is read of it later, beside the step."""
        told = self._rows.told[slot]
        assert told is not None
        if self._groups is not None:
            self._groups.left(request)
        self._forecaster.over(told, request)

    def left(self, request: Any) -> None:
        """The request is over, and never had a row."""
        self.outside.pop(request.request_id, None)
        self.grammars.leave(request.request_id)
        if self._groups is not None:
            self._groups.left(request)

    def _class(self, request: Any) -> SloClass:
        """That the request asks for."""
        if not self.classes.given:
            return PLAIN
        parameters = request.sampling_params
        try:
            name = read_class(parameters.extra_args if parameters is not None else None)
        except InputError:
            name = UNKNOWN
        known = self.classes.known(name)
        self.named[UNKNOWN if name and name != known else known] += 1
        return self.classes.of[known]

    def _said(self, request: Any) -> tuple[str, Hint | None]:
        """Tenant and hint; what is of no use is ignored and counted."""
        parameters = request.sampling_params
        said = parameters.extra_args if parameters is not None else None
        if not said:
            return "", None
        tenant, hint = "", None
        try:
            tenant = read_tenant(said)
            hint = read_hint(said)
        except InputError:
            self.hints["ignored"] += 1
            self._forecaster.health.bad_hints += 1
        if hint is not None:
            self.hints["used"] += 1
        return tenant, hint
