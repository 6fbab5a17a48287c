"""The one error for bad input: field, value and rule in one line."""

from __future__ import annotations

MOST_SHOWN = 300  # characters of each part


class InputError(ValueError):
    """Bad input at an edge (config, wire, trace, CLI argument).

    Printed as ``field=value, rule``, e.g. ``horizon_steps=0, must be >= 1``; the edges turn it into
    exit status 2 or INVALID_ARGUMENT, never into a traceback.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        named, told = _line(field), _line(rule)
        super().__init__(f"{named}={_line(repr(value))}, {told}" if value is not None else f"{named}: {told}")
        self.field = field
        self.value = value
        self.rule = rule

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str]]:
        return InputError, (self.field, self.value, self.rule)  # so that it comes whole out of another process


def in_a_line(error: BaseException) -> str:
    """What an error says, and of which kind it is unless it is one of bad input: for a log that shows no traceback."""
    said = _line(str(error))
    return (
        said if isinstance(error, InputError) else f"{type(error).__name__}: {said}" if said else type(error).__name__
    )


def _line(text: str) -> str:
    """The text as one line, cut where it is longer than anyone reads."""
    line = " ".join(text.splitlines())
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}…"
