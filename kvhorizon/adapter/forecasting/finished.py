"""What the forecasts learn of a request that is over. The step notes the request, a thread makes this of it."""

from __future__ import annotations

from typing import Any, NamedTuple

ABORTED = ("FINISHED_ABORTED", "FINISHED_ERROR", "FINISHED_IGNORED")


class Told(NamedTuple):
    """What the forecast has to know again when a request ends."""

    handle: int
    key: int
    hint_key: int
    hint_tokens: float
    limit: int


class Ended(NamedTuple):
    """One request that is over."""

    handle: int
    leaf: int
    hint_leaf: int  # 0: none
    hint_tokens: float
    tokens: int
    cut: bool  # it would have gone on
    aborted: bool


def ended_of(told: Told, request: Any) -> Ended:
    """Of those cut short, by a limit or by their client, all that is known is that they would have been longer."""
    tokens, aborted = request.num_output_tokens, request.status.name in ABORTED
    cut = aborted or tokens >= told.limit
    return Ended(told.handle, told.key, told.hint_key, told.hint_tokens, tokens, cut, aborted)
