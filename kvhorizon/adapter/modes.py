"""The mode in force: as chosen, by the kill switch, by the canary's windows or the guardrail's, at any time."""

from __future__ import annotations

import enum
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from kvhorizon.errors import InputError

if TYPE_CHECKING:
    from kvhorizon.adapter.guardrail.guardrail import Guardrail

_HASH = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: spreads consecutive windows evenly (Knuth, TAOCP 3, § 6.4)


class Mode(enum.StrEnum):
    """In order of trust."""

    OFF = "off"  # vLLM alone; only evictions are counted
    OBSERVE = "observe"  # decisions untouched, everything measured
    ADVISE = "advise"  # decisions made and compared with vLLM's, never applied
    CONTROL = "control"


def parse_mode(text: str) -> Mode:
    """A mode by name. Raises InputError."""
    try:
        return Mode(text.strip().lower())
    except ValueError:
        raise InputError("mode", text, f"must be one of {', '.join(Mode)}") from None


class Switch:
    """The mode in force at a time. `chosen` may be set at any time, from any thread."""

    def __init__(
        self, chosen: Mode, canary: float = 1.0, window_s: float = 60.0, kill_switch: Path | None = None
    ) -> None:
        self.chosen = chosen
        self.killed = False  # toggled by a signal
        self._canary = canary
        self._window_s = window_s
        self._kill_switch = kill_switch
        self.watched = kill_switch is not None or canary < 1.0  # else the mode in force is the one chosen, or killed
        self.guardrail: Guardrail | None = None

    def mode(self, now_s: float) -> Mode:
        """The mode of a step at `now_s`; the kill switch is looked at in every one."""
        if self.killed:
            return Mode.OFF
        if self._kill_switch is not None and self._kill_switch.exists():
            return self._from_file(self._kill_switch)
        if self.chosen is Mode.CONTROL and self._canary < 1.0 and not in_canary(self.window(now_s), self._canary):
            return Mode.OBSERVE
        if self.chosen is Mode.CONTROL and self.guardrail is not None and self.guardrail.native:
            return Mode.OBSERVE
        return self.chosen

    def guard(self, guardrail: Guardrail) -> None:
        """From now on it may say, while control is chosen, that vLLM decides alone."""
        self.guardrail, self.watched = guardrail, True

    def window(self, now_s: float) -> int:
        """Number of the canary's window."""
        return int(now_s // self._window_s)

    def toggle(self) -> None:
        """The kill switch without a file."""
        self.killed = not self.killed

    def _from_file(self, path: Path) -> Mode:
        """Off, or the mode whose name the file holds."""
        try:
            text = path.read_text(encoding="utf-8")
            return parse_mode(text) if text.strip() else Mode.OFF
        except (OSError, ValueError):
            return Mode.OFF


def in_canary(window: int, share: float) -> bool:
    """Whether a window belongs to the canary; a fixed, even spread of `share` of them."""
    return (window * _HASH % 2**64) / 2**64 < share


def toggle_on_signal(switch: Switch, number: signal.Signals = signal.SIGUSR1) -> bool:
    """Toggle the kill switch at SIGUSR1, where no other wants that signal; False where it cannot be had."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        switch.toggle()

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is not signal.SIG_DFL:
        return False
    signal.signal(number, on_signal)
    return True
