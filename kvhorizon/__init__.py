"""kvhorizon: a memory-aware request scheduler for LLM serving."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`kvhorizon.what_if`, loaded when first asked for, so that the plugin in an engine never loads the simulator."""
    if name == "what_if":
        from kvhorizon.notebook import what_if

        return what_if
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
