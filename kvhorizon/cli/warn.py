"""Warnings of a command, a line each on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def warn(texts: Iterable[str]) -> None:
    """Say each once."""
    for text in dict.fromkeys(texts):
        print(f"kvhorizon: warning: {text}", file=sys.stderr)
