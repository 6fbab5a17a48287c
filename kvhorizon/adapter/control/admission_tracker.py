"""Which requests the engine has admitted in a step, and how that compares with what was chosen."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kvhorizon.adapter.control.controller import Control
from kvhorizon.adapter.forecasting.intake import Intake
from kvhorizon.adapter.modes import Mode


class Admitted:
    """Of one engine. `advice` counts `agreed`, `held_instead` and `admitted_instead` under `advise`."""

    def __init__(self, control: Control, intake: Intake) -> None:
        self.advice: Counter[str] = Counter()
        self._control, self._intake = control, intake

    def take(self, running: list[Any], now_s: float, mode: Mode) -> list[int]:
        """Slots of the newly admitted, in the engine's order: it appends them. Their rows run from now on."""
        control, rows = self._control, self._control.rows
        known, taken = rows.slot_of, []
        for request in reversed(running):
            slot = known.get(request.request_id)
            if slot is None:
                slot = self._intake.slot(request.request_id)
            if not rows.cells.waits[slot]:
                if rows.streaming:
                    continue
                break
            taken.append(slot)
        if mode is Mode.ADVISE:
            self._compare(set(taken), set(control.choice.slots))
        if not taken:
            return taken
        control.joined(taken, mode is Mode.CONTROL)
        choice = control.choice
        overtakes = dict(zip(choice.slots, choice.overtakes, strict=True)) if mode is Mode.CONTROL else {}
        control.rule.left(min(rows.tokens(slot) for slot in taken))
        for slot in taken:
            rows.take(slot, now_s)
            control.prefixes.admitted(slot, rows.request[slot])
            rows.cells.out_of_order[slot] = overtakes.get(slot, False)
        return taken[::-1]

    def _compare(self, taken: set[int], advised: set[int]) -> None:
        self.advice["agreed"] += len(taken & advised)
        self.advice["held_instead"] += len(taken - advised)
        self.advice["admitted_instead"] += len(advised - taken)
