"""Why a request was held, put last or evicted, in one sentence: with the alternatives and their prices."""

from __future__ import annotations

import numpy as np

from kvhorizon.adapter.control.decision_log import Decision, DecisionLog
from kvhorizon.adapter.control.plan_follower import PlanFollower
from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.adapter.engine.step_demand import Demand
from kvhorizon.adapter.engine.view import Engine


class Reasons:
    """Of one engine, into its log."""

    def __init__(self, engine: Engine, rows: Rows, plans: PlanFollower, log: DecisionLog) -> None:
        self._engine, self._rows, self._plans, self._log = engine, rows, plans, log

    def held(self, step: int, candidates: Slots, now_s: float, returning_tokens: float = 0.0) -> None:
        """None of the candidates was let in; told of the first that came.

        `returning_tokens` of KV are expected to be used again by sessions between two turns.
        """
        rows, engine = self._rows, self._engine
        slot = int(candidates[np.argmin(rows.columns.arrival_s[candidates])])
        tokens = rows.tokens(slot)
        why = (
            f"to admit it would take {-(-tokens // engine.block_size)} blocks{self._price()} of {engine.free_blocks} "
            f"free, for which the {len(engine.scheduler.running)} running requests will grow; it came first of "
            f"{len(candidates)} that wait, and none of them was let in"
        )
        if returning_tokens >= engine.block_size:
            blocks = int(returning_tokens) // engine.block_size
            why += f"; {blocks} blocks hold KV that sessions between two turns are expected to use again"
        self._note(step, slot, now_s, "held", why)

    def victim(self, step: int, slot: int, spared: int | None, demand: Demand, now_s: float) -> None:
        """The request is put last; `spared` would have been the next."""
        why = (
            f"the step wants {demand.total_blocks} blocks{self._price()} of {self._engine.free_blocks} free; of "
            f"{len(demand.slots)} running it has most output to come for the work lost: it {self._holds(slot)}"
        )
        if spared is not None:
            why += f"; next would have been {self._rows.request[spared].request_id}, which {self._holds(spared)}"
        self._note(step, slot, now_s, "victim", why)

    def evicted(self, step: int, slot: int, now_s: float) -> None:
        """A plan asks for the request's eviction, which comes next."""
        ran_s = now_s - float(self._rows.extra.admitted_s[slot])
        why = f"the plan would rather have it wait: it ran for {ran_s:.1f} s and {self._holds(slot)}{self._price()}"
        self._note(step, slot, now_s, "evicted", why)

    def _holds(self, slot: int) -> str:
        cells = self._rows.cells
        return f"holds {cells.blocks[slot]} blocks, of {cells.computed[slot]} tokens"

    def _price(self) -> str:
        """Of memory now, where a plan has one."""
        plan = self._plans.plan
        if plan is None or not len(plan.block_prices):
            return ""
        return f" (at {plan.block_prices[0]:.3g} s of delay each)"

    def _note(self, step: int, slot: int, now_s: float, what: str, why: str) -> None:
        name = self._rows.request[slot].request_id
        self._log.note(Decision(now_s, step, name, what, self._plans.source, why))
