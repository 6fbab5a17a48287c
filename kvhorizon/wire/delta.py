"""The difference between two snapshots of one engine, and its application.

`apply_delta(old, encode_delta(old, new))` is `new`, provided that the facts are the same, revisions grow and curve
tables change only with their version.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.state import HandleArray, Requests, Snapshot
from kvhorizon.wire.convert import (
    COLUMNS,
    column,
    decode_curves,
    decode_habits,
    decode_requests,
    encode_curves,
    encode_habits,
    encode_requests,
)
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.validate import check_size, check_unique

_PROGRESS = ("generated_tokens", "computed_tokens", "blocks_held")
_Table = dict[str, NDArray[Any]]
_Rows = NDArray[np.intp]


def can_follow(old: Snapshot, new: Snapshot) -> bool:
    """Whether `new` can be sent as a delta on `old`."""
    return new.facts == old.facts and new.revision > old.revision


def encode_delta(old: Snapshot, new: Snapshot) -> pb.Delta:
    """What turns `old` into `new`; both with unique handles, and `can_follow(old, new)`."""
    message = pb.Delta(
        revision=new.revision,
        base_revision=old.revision,
        now_s=new.now_s,
        free_blocks=new.free_blocks,
        step_s=new.step_s,
        num_running=new.num_running,
        curves_version=new.curves_version,
    )
    at = _find(old.requests.handle, new.requests.handle)  # (N,) row in old of each request in new, -1 if added
    kept = np.isin(old.requests.handle, new.requests.handle)
    message.removed.extend(old.requests.handle[~kept].tolist())
    moved, rewritten = _changes(old.requests, new.requests, at)
    _add_progress(message, new.requests, moved)
    if rewritten.any():
        message.rows.CopyFrom(encode_requests(new.requests, rewritten))
    follows = np.concatenate([old.requests.handle[kept], new.requests.handle[at < 0]])
    if not np.array_equal(follows, new.requests.handle):
        message.order.handle.extend(new.requests.handle.tolist())
    if new.curves_version != old.curves_version:
        message.curves.CopyFrom(encode_curves(new.curves))
    if new.habits != old.habits:
        message.habits.CopyFrom(encode_habits(new.habits))
    return message


def apply_delta(old: Snapshot, message: pb.Delta) -> Snapshot:
    """The snapshot that `message` makes of `old`; raises InputError where it does not fit `old`.

    The values are not checked here: pass the result to `validate.check_snapshot`.
    """
    if message.revision <= old.revision:
        raise InputError("revision", message.revision, f"must be > base_revision = {old.revision}")
    table = {name: getattr(old.requests, name) for name, _, _ in COLUMNS}
    table = _remove(table, message)
    table = _progress(table, message.progress)
    table = _put_rows(table, message.rows)
    if message.HasField("order"):
        table = _reorder(table, message.order)
    return replace(
        old,
        revision=message.revision,
        now_s=message.now_s,
        free_blocks=message.free_blocks,
        step_s=message.step_s,
        num_running=message.num_running,
        requests=Requests(**table),
        curves=decode_curves(message.curves) if message.HasField("curves") else old.curves,
        curves_version=message.curves_version,
        habits=decode_habits(message.habits) if message.HasField("habits") else old.habits,
    )


def _find(where: HandleArray, what: HandleArray) -> _Rows:
    """Index in `where` of each entry of `what`, -1 where it is not there."""
    if len(where) == 0:
        return np.full(len(what), -1, dtype=np.intp)
    by_handle = np.argsort(where)
    place = np.minimum(np.searchsorted(where, what, sorter=by_handle), len(where) - 1)
    found = by_handle[place]
    rows: _Rows = np.where(where[found] == what, found, -1)
    return rows


def _find_all(table: _Table, handles: Any, field: str) -> _Rows:
    what: HandleArray = column(handles, np.uint64)
    check_unique(field, what)
    rows = _find(table["handle"], what)
    if (rows < 0).any():
        raise InputError(field, int(what[np.argmin(rows)]), "must be a live request")
    return rows


def _changes(old: Requests, new: Requests, at: _Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Requests of `new`, (N,) each: those that only made progress, and those to be sent as complete rows."""
    known = at >= 0
    moved = np.zeros(len(new), dtype=np.bool_)
    rewritten = ~known
    for name, _, _ in COLUMNS:
        differs = np.zeros(len(new), dtype=np.bool_)
        differs[known] = getattr(new, name)[known] != getattr(old, name)[at[known]]
        if name in _PROGRESS:
            moved |= differs
        else:
            rewritten |= differs
    return moved & ~rewritten, rewritten


def _add_progress(message: pb.Delta, new: Requests, moved: NDArray[np.bool_]) -> None:
    if moved.any():
        for name in ("handle", *_PROGRESS):
            getattr(message.progress, name).extend(getattr(new, name)[moved].tolist())


def _remove(table: _Table, message: pb.Delta) -> _Table:
    if not message.removed:
        return table
    gone = _find_all(table, message.removed, "removed")
    return {name: np.delete(values, gone) for name, values in table.items()}


def _progress(table: _Table, message: pb.Progress) -> _Table:
    count = len(message.handle)
    for name in _PROGRESS:
        if len(getattr(message, name)) != count:
            raise InputError(
                f"progress.{name}", len(getattr(message, name)), f"must have {count} entries, one per handle"
            )
    if count == 0:
        return table
    rows = _find_all(table, message.handle, "progress.handle")
    result = dict(table)
    for name in _PROGRESS:
        result[name] = table[name].copy()
        result[name][rows] = column(getattr(message, name), np.int64)
    return result


def _put_rows(table: _Table, message: pb.Requests) -> _Table:
    check_size(message, "rows")
    rows = decode_requests(message, "rows")
    if len(rows) == 0:
        return table
    check_unique("rows.handle", rows.handle)
    at = _find(table["handle"], rows.handle)
    known = at >= 0
    result = {}
    for name, values in table.items():
        updated = values.copy()
        updated[at[known]] = getattr(rows, name)[known]
        result[name] = np.concatenate([updated, getattr(rows, name)[~known]])
    return result


def _reorder(table: _Table, message: pb.Order) -> _Table:
    count = len(table["handle"])
    if len(message.handle) != count:
        raise InputError("order.handle", len(message.handle), f"must have {count} entries, one per live request")
    rows = _find_all(table, message.handle, "order.handle")
    return {name: values[rows] for name, values in table.items()}
