"""Columns of the rows for one value at a time, as Python's own views: numpy takes several times as long for one."""

from __future__ import annotations

from typing import Any, NamedTuple


class Cells(NamedTuple):
    """(N,) each, as in `Columns` and `Extra`."""

    prompt: memoryview
    generated: memoryview
    computed: memoryview
    blocks: memoryview
    limit: memoryview
    preemptions: memoryview
    out_of_order: memoryview
    arrival_s: memoryview[float]
    weight: memoryview[float]
    shared: memoryview
    idle: memoryview
    turn: memoryview[float]
    curve: memoryview
    scale: memoryview[float]
    handle: memoryview
    waits: memoryview[bool]
    place: memoryview


def cells_of(columns: Any, extra: Any) -> Cells:
    """Views of the same memory."""
    arrays = {**columns._asdict(), **extra._asdict()}
    return Cells(*(memoryview(arrays[name]) for name in Cells._fields))  # type: ignore[arg-type]
