"""`kvhorizon doctor`: whether the flag would work here, before it is switched on."""

import typer
from rich.console import Console
from rich.table import Table

from kvhorizon.cli.checks import examine

COLOURS = {"ok": "green", "note": "yellow", "fails": "red"}


def doctor() -> None:
    """Say whether the plugin would work in this environment; exit status 1 where something fails."""
    found = examine()
    table = Table(show_header=False, box=None)
    for finding in found:
        table.add_row(finding.what, f"[{COLOURS[finding.state]}]{finding.state}[/]", finding.says)
    Console().print(table)
    if any(finding.state == "fails" for finding in found):
        raise typer.Exit(1)
