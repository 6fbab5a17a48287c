"""`kvhorizon top`: what the plugins of this machine's engines do right now, and what it is worth, in the terminal."""

from __future__ import annotations

import time
from typing import Annotated, NamedTuple

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from kvhorizon.errors import InputError
from kvhorizon.recording.exposition import Sample, by_label, parse, total
from kvhorizon.wire.local import ask, local_addresses

LEAST_S, MOST_S = 0.2, 3600.0
BAR_WIDTH = 30


class Scrape(NamedTuple):
    """What one engine said, and when."""

    at_s: float
    samples: list[Sample]


def top(
    at: Annotated[
        list[str] | None, typer.Option(help="http://host:port of a plugin; without it, all engines of this machine.")
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print, and end.")] = False,
) -> None:
    """Watch engines live: memory and its pressure, evictions, what they waste, who decides, how good forecasts are."""
    if not LEAST_S <= every <= MOST_S:
        raise InputError("every", every, f"must be within {LEAST_S} ... {MOST_S:.0f} seconds")
    before = look(at)
    if not before:
        raise InputError("at", ", ".join(at) if at else None, "must be of an engine with a plugin of ours that answers")
    time.sleep(every)
    console = Console()
    if once:
        console.print(view(before, look(at)))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                now = look(at)
                live.update(view(before, now), refresh=True)
                before = now or before
                time.sleep(every)
        except KeyboardInterrupt:
            return


def look(at: list[str] | None) -> dict[str, Scrape]:
    """All engines that answer, by address."""
    found = {}
    for address in at or local_addresses():
        try:
            body = ask(address, "/metrics")
        except OSError:
            continue
        if body is not None:
            samples = parse(body.decode("utf-8", errors="replace"))
            if total(samples, "kvhorizon_pool_blocks") is not None:
                found[address] = Scrape(time.monotonic(), samples)
    return found


def view(before: dict[str, Scrape], now: dict[str, Scrape]) -> Group:
    """A panel for each engine; rates are those between the two looks."""
    parts = [_engine(address, before.get(address), scrape) for address, scrape in now.items()]
    return Group(*parts) if parts else Group("no engine answers")


def _engine(address: str, before: Scrape | None, now: Scrape) -> Table:
    samples = now.samples
    named = next((one.labels for one in samples if one.name == "kvhorizon_pool_blocks"), {})
    title = f"{named.get('model_name', '?')}, engine {named.get('engine', '?')}"
    if not address.startswith("\0"):
        title += f" at {address}"
    table = Table(title=escape(title), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    pool = total(samples, "kvhorizon_pool_blocks") or 1.0
    used = 1.0 - (total(samples, "kvhorizon_free_blocks") or 0.0) / pool
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=1.0, completed=max(used, 0.0), width=BAR_WIDTH), f"{used:.0%} of {pool:,.0f} blocks")
    table.add_row("KV in use", bar)
    for name, text in _lines(pool, before, now):
        table.add_row(name, escape(text))
    return table


def _lines(pool: float, before: Scrape | None, now: Scrape) -> list[tuple[str, str]]:
    samples = now.samples
    promised = by_label(samples, "kvhorizon_promised_blocks", "steps")
    ahead = ", ".join(f"{promised[steps] / pool:.0%} in {steps}" for steps in sorted(promised, key=float))
    wasted, useful = (_rate(before, now, f"kvhorizon_{kind}_flops_total") for kind in ("wasted", "useful"))
    share = wasted / (wasted + useful) if wasted is not None and useful is not None and wasted + useful > 0.0 else None
    return [
        ("will hold", f"{ahead} steps" if ahead else "-"),
        ("mode", _active(samples, "kvhorizon_mode", "mode")),
        ("decides", _shares(before, now, "kvhorizon_steps_total", "source")),
        ("plans", f"session {_active(samples, 'kvhorizon_session', 'state')}; {_flag(samples)}"),
        ("finished", _per_s(_rate(before, now, "kvhorizon_requests_finished_total"))),
        ("evictions", _per_s(_rate(before, now, "kvhorizon_preemptions_total"))),
        (
            "computed again",
            f"{_per_s(_rate(before, now, 'kvhorizon_recompute_tokens_total'), 'tokens')}, {_percent(share)} of FLOPs",
        ),
        ("forecasts", _forecasts(samples)),
        ("errors", f"{total(samples, 'kvhorizon_exceptions_total') or 0.0:,.0f} caught"),
    ]


def _rate(before: Scrape | None, now: Scrape, name: str) -> float | None:
    if before is None or now.at_s <= before.at_s:
        return None
    old, new = total(before.samples, name) or 0.0, total(now.samples, name) or 0.0
    return max(new - old, 0.0) / (now.at_s - before.at_s)


def _shares(before: Scrape | None, now: Scrape, name: str, label: str) -> str:
    old = {} if before is None else by_label(before.samples, name, label)
    gained = {key: value - old.get(key, 0.0) for key, value in by_label(now.samples, name, label).items()}
    whole = sum(gained.values())
    told = [f"{key} {value / whole:.0%}" for key, value in gained.items() if whole > 0.0 and value > 0.0]
    return ", ".join(told) or "no steps"


def _active(samples: list[Sample], name: str, label: str) -> str:
    return next((key for key, value in by_label(samples, name, label).items() if value == 1.0), "-")


def _flag(samples: list[Sample]) -> str:
    return "a plan is followed" if total(samples, "kvhorizon_plan_in_force") else "no plan in force"


def _forecasts(samples: list[Sample]) -> str:
    covered = by_label(samples, "kvhorizon_forecast_coverage", "share")
    told = [f"{value:.0%} inside the {float(share):.0%} band" for share, value in sorted(covered.items()) if share]
    drift = "; lengths have just changed" if total(samples, "kvhorizon_forecast_drift") else ""
    return (", ".join(told) or "not scored yet") + drift


def _per_s(rate: float | None, unit: str = "") -> str:
    return "-" if rate is None else f"{rate:,.2f} {unit}".rstrip() + "/s"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100.0 * share:.1f} %"
