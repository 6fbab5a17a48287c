"""The command line, a file per command. Bad input ends in one line and exit status 2, never in a traceback."""

from __future__ import annotations

import os
import sys

from kvhorizon import __version__
from kvhorizon.errors import InputError


def main() -> None:
    """Run the command line; the exit status is 0, 2 for bad input, 1 for a fault of ours."""
    if sys.argv[1:] == ["--version"]:  # at once, without all that the commands import
        print(f"kvhorizon {__version__}")
        return
    try:
        from kvhorizon.cli.app import app

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
