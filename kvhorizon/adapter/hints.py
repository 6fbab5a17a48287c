"""A client's own forecast of its output: `"vllm_xargs": {"pred_len": …}` in the request's body.

218            about that many tokens
[100, 400]     between these, nine times out of ten
"summary"      a class: requests of one name are forecast alike
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from kvhorizon.errors import InputError

NAME = "pred_len"
POINT_LOG_SIGMA = 0.6  # of a single number: what good predictors reach
RANGE_QUANTILE = 1.645  # standard deviations from the median to either end of a range
MAX_TOKENS = 10_000_000
MAX_CLASS_CHARACTERS = 64
_RULE = "must be a number of tokens, [low, high] with 0 < low <= high, or a short name"


class Hint(NamedTuple):
    """Median of the output and its spread, or a class; `key` is 0 without a class."""

    median_tokens: float = 0.0
    log_sigma: float = 0.0
    key: int = 0


def read_hint(extra_args: Mapping[str, object] | None) -> Hint | None:
    """The hint in a request's extra arguments, None where there is none. Raises InputError for one of no use."""
    if not extra_args or NAME not in extra_args:
        return None
    value = extra_args[NAME]
    if isinstance(value, str):
        value = _parse(value)
    if isinstance(value, str):
        return Hint(key=_key(value))
    if isinstance(value, list | tuple):
        return _range(value)
    return Hint(_tokens(value), POINT_LOG_SIGMA)


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
    return Hint(math.sqrt(low * high), math.log(high / low) / (2.0 * RANGE_QUANTILE))


def _tokens(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= MAX_TOKENS:
        raise InputError(NAME, value, _RULE)
    return float(value)


def _key(name: str) -> int:
    """A number above all prompt classes, the same in every process."""
    if not 0 < len(name) <= MAX_CLASS_CHARACTERS:
        raise InputError(NAME, name, _RULE)
    return 1 + zlib.crc32(name.encode())
