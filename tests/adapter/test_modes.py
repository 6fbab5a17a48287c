"""Modes, the kill switch and the canary's share."""

import os
import signal
from pathlib import Path

import pytest

from kvhorizon.adapter.modes import Mode, Switch, in_canary, parse_mode, toggle_on_signal
from kvhorizon.adapter.settings import load
from kvhorizon.errors import InputError


def test_a_file_switches_off_and_may_name_a_mode(tmp_path: Path) -> None:
    path = tmp_path / "kill"
    switch = Switch(Mode.CONTROL, kill_switch=path)
    assert switch.mode(0.0) is Mode.CONTROL
    for text, mode in (("", Mode.OFF), ("observe\n", Mode.OBSERVE), ("nonsense", Mode.OFF)):
        path.write_text(text)
        assert switch.mode(0.0) is mode
    path.unlink()
    assert switch.mode(0.0) is Mode.CONTROL


def test_a_signal_toggles() -> None:
    switch = Switch(Mode.CONTROL)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        assert toggle_on_signal(switch)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert switch.mode(0.0) is Mode.OFF
        os.kill(os.getpid(), signal.SIGUSR1)
        assert switch.mode(0.0) is Mode.CONTROL
        assert not toggle_on_signal(switch)  # it is taken
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_canary_has_its_share(share: float) -> None:
    switch = Switch(Mode.CONTROL, canary=share, window_s=10.0)
    modes = [switch.mode(10.0 * window + 5.0) for window in range(1000)]
    assert modes.count(Mode.CONTROL) == pytest.approx(1000 * share, abs=5)
    assert switch.mode(7.0) is switch.mode(3.0)
    assert not in_canary(3, 0.0)


def test_settings_come_from_both_and_the_environment_goes_first() -> None:
    found = load({"kvhorizon": {"mode": "advise", "knob": "means"}}, {"KVHORIZON_MODE": "observe"})
    assert (found.mode, found.knob) == ("observe", "means")
    assert load(None, {}).mode == "control"


@pytest.mark.parametrize("settings", [{"mode": "contro"}, {"knbo": 1}, {"canary": 2}, 7])
def test_wrong_settings_are_named(settings: object) -> None:
    with pytest.raises(InputError):
        load({"kvhorizon": settings}, {})


def test_wrong_mode() -> None:
    with pytest.raises(InputError, match="must be one of"):
        parse_mode("on")
