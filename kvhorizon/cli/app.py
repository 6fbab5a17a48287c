"""The commands, a file each, and what holds them together."""

from __future__ import annotations

from typing import Annotated

import typer

from kvhorizon import __version__
from kvhorizon.cli.commands.doctor import doctor
from kvhorizon.cli.commands.explain import explain
from kvhorizon.cli.commands.inspect import inspect
from kvhorizon.cli.commands.plan import plan
from kvhorizon.cli.commands.record import record
from kvhorizon.cli.commands.serve import serve
from kvhorizon.cli.commands.top import top
from kvhorizon.cli.commands.train import train
from kvhorizon.cli.commands.what_if import what_if

app = typer.Typer(
    help="A memory-aware request scheduler for LLM serving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("what-if")(what_if)
app.command("serve")(serve)
app.command("plan")(plan)
app.command("doctor")(doctor)
app.command("train")(train)
app.command("record")(record)
app.command("inspect")(inspect)
app.command("explain")(explain)
app.command("top")(top)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kvhorizon {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """A memory-aware request scheduler for LLM serving."""
