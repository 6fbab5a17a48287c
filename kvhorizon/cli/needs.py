"""Libraries that some commands need and others do without."""

import importlib.util

from kvhorizon.errors import InputError


def require(package: str, extra: str) -> None:
    """Raises InputError where `package`, which our `extra` brings, is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError("this command", None, f"needs {package}: pip install 'kvhorizon[{extra}]'")
