"""The command line, a file per command. Bad input ends in one line and exit status 2, never in a traceback."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from kvhorizon import __version__
from kvhorizon.cli.doctor import doctor
from kvhorizon.cli.explain import explain
from kvhorizon.cli.inspect import inspect
from kvhorizon.cli.plan import plan
from kvhorizon.cli.record import record
from kvhorizon.cli.serve import serve
from kvhorizon.cli.top import top
from kvhorizon.cli.train import train
from kvhorizon.cli.what_if import what_if
from kvhorizon.errors import InputError

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


def main() -> None:
    """Run the command line; the exit status is 0, 2 for bad input, 1 for a fault of ours."""
    try:
        app()
    except InputError as error:
        print(f"kvhorizon: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    except Exception as error:
        if os.environ.get("KVHORIZON_DEBUG") == "1":
            raise
        name = type(error).__name__
        print(f"kvhorizon: failed: {name}: {error} (KVHORIZON_DEBUG=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from None
