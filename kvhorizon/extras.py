"""Libraries that some parts need and the rest does without."""

import importlib.util

from kvhorizon.errors import InputError


def require(package: str, extra: str, field: str = "this command", value: object = None) -> None:
    """Raises InputError where `package`, which our `extra` brings and what is asked for needs, is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(field, value, f"needs {package}: pip install 'kvhorizon[{extra}]'")
