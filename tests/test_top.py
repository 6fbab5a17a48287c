"""`kvhorizon top` shows what a plugin's metrics say; rates are those between two looks."""

import io
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from kvhorizon.adapter.telemetry.catalogue import build
from kvhorizon.adapter.telemetry.listen import listen_tcp
from kvhorizon.cli import main
from kvhorizon.cli.commands.top import Scrape, view
from kvhorizon.recording.exposition import parse

ENGINE = {"model_name": "[red]m", "engine": "0"}


class Plugin:
    """Metrics of an engine, by hand."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.families = build(self.registry)
        self.set("kvhorizon_pool_blocks", 200)
        self.set("kvhorizon_free_blocks", 50)
        self.set("kvhorizon_promised_blocks", 190, steps="32")
        self.set("kvhorizon_mode", 1, mode="control")
        self.set("kvhorizon_mode", 0, mode="observe")
        self.set("kvhorizon_session", 1, state="planning")
        self.set("kvhorizon_plan_in_force", 1)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        self.families[name].labels(**ENGINE, **labels).set(value)

    def grow(self, name: str, amount: float, /, **labels: str) -> None:
        self.families[name].labels(**ENGINE, **labels).inc(amount)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def shown(before: bytes, now: bytes, seconds: float) -> str:
    looks = [{"http://a:1": Scrape(at_s, parse(text.decode()))} for at_s, text in ((0.0, before), (seconds, now))]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view(*looks))
    return console.export_text()


def test_what_is_shown() -> None:
    plugin = Plugin()
    before = plugin.text()
    plugin.grow("kvhorizon_preemptions", 6, by="local")
    plugin.grow("kvhorizon_wasted_flops", 1e12)
    plugin.grow("kvhorizon_useful_flops", 9e12)
    plugin.grow("kvhorizon_steps", 30, source="plan")
    plugin.grow("kvhorizon_steps", 10, source="local")
    said = shown(before, plugin.text(), 2.0)
    for text in (
        "[red]m, engine 0 at http://a:1",
        "75% of 200 blocks",
        "95% in 32 steps",
        "control",
        "plan 75%, local 25%",
        "session planning; a plan is followed",
        "3.00/s",
        "10.0 % of FLOPs",
        "not scored yet",
    ):
        assert text in said, text


def test_the_command_looks_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = Plugin()
    listener = listen_tcp("127.0.0.1", 0, {"/metrics": lambda _: ("text/plain", plugin.text())})
    at = f"http://127.0.0.1:{listener.port}"
    try:
        assert run(monkeypatch, "--once", "--every", "0.2", "--at", at) == 0
        assert "75% of 200 blocks" in capsys.readouterr().out
    finally:
        listener.stop()
    assert run(monkeypatch, "--once", "--at", at) == 2
    assert "must be of an engine" in capsys.readouterr().err
    assert run(monkeypatch, "--every", "0") == 2


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["kvhorizon", "top", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)
