"""A client's own forecast of its output: `"vllm_xargs": {"pred_len": …}` in the request's body.

218            about that many tokens
[100, 400]     between these
"summary"      a class: requests of one name are forecast alike

What a number is worth, its source's bias and spread, is learned (`models.forecast.hints`); nothing of it is believed as
such.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from kvhorizon.errors import InputError

NAME = "pred_len"
TENANT = "tenant"
SESSION = "session"
SLO_CLASS = "slo_class"
MAX_TOKENS = 10_000_000
MAX_CHARACTERS = 64
_MOST_WIDTH = 31  # half octaves
_RULE = "must be a number of tokens, [low, high] with 0 < low <= high, or a short name"
_NAME_RULE = f"must be a name of at most {MAX_CHARACTERS} characters"


class Hint(NamedTuple):
    """A number or a range, or a class; what is absent is 0."""

    tokens: float = 0.0  # the number, or the geometric mean of the range
    width: int = 0  # of the range [half octaves]
    name: int = 0  # of the class


def read_hint(extra_args: Mapping[str, object] | None) -> Hint | None:
    """The hint in a request's extra arguments, None where there is none. Raises InputError for one of no use."""
    if not extra_args or NAME not in extra_args:
        return None
    value = extra_args[NAME]
    if isinstance(value, str):
        value = _parse(value)
    if isinstance(value, str):
        if not 0 < len(value) <= MAX_CHARACTERS:
            raise InputError(NAME, value, _RULE)
        return Hint(name=number_of_name(value))
    if isinstance(value, list | tuple):
        return _range(value)
    return Hint(_tokens(value))


def read_tenant(extra_args: Mapping[str, object] | None) -> str:
    """Whose request it is, as the client says; "" where it says nothing. Raises InputError for no name."""
    return _name(extra_args, TENANT)


def read_session(extra_args: Mapping[str, object] | None) -> str:
    """The conversation that it continues; as `read_tenant`."""
    return _name(extra_args, SESSION)


def read_class(extra_args: Mapping[str, object] | None) -> str:
    """The class of service that it asks for; as `read_tenant`."""
    return _name(extra_args, SLO_CLASS)


def number_of_name(name: str) -> int:
    """A positive number of 32 bits, the same in every process; 0 for no name."""
    return max(zlib.crc32(name.encode(errors="surrogatepass")), 1) if name else 0


def _name(extra_args: Mapping[str, object] | None, field: str) -> str:
    value = extra_args.get(field, "") if extra_args else ""
    if not isinstance(value, str) or len(value) > MAX_CHARACTERS:
        raise InputError(field, value, _NAME_RULE)
    return value


def _parse(text: str) -> object:
    """HTTP clients may be able to send text only: a number or a range in it, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _range(value: list[object] | tuple[object, ...]) -> Hint:
    if len(value) != 2:
        raise InputError(NAME, value, _RULE)
    low, high = _tokens(value[0]), _tokens(value[1])
    if low > high:
        raise InputError(NAME, value, _RULE)
    return Hint(math.sqrt(low * high), min(round(2.0 * (math.log2(high) - math.log2(low))), _MOST_WIDTH))


def _tokens(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= MAX_TOKENS:
        raise InputError(NAME, value, _RULE)
    return float(value)
