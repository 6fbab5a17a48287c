"""The service's end of a session: what one engine last said, and a single slot from which the planner takes it.

Updates are applied as they come, so nothing is lost; snapshots that the planner had no time for are.
"""

import enum
import logging
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import grpc

from kvhorizon.errors import InputError
from kvhorizon.service.turn import Turn
from kvhorizon.state import Snapshot
from kvhorizon.wire.convert import decode_snapshot
from kvhorizon.wire.delta import apply_delta
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.validate import check_size, check_snapshot, parse

logger = logging.getLogger(__name__)


class End(enum.Enum):
    """Why there is nothing more to take."""

    CLIENT = "the client ended the session"
    STOPPING = "the service is stopping"
    FAILED = "the service failed to read the session"


class Resync(NamedTuple):
    """Ask for the full state, because of `reason`."""

    reason: str
    held_revision: int


class Inbox:
    """One engine's state. `read` fills it from the stream's thread, `take` empties it from the planner's."""

    def __init__(self, on_dropped: Callable[[], None], turn: Turn) -> None:
        """`on_dropped` is called for each snapshot that a newer one overtook; updates are read in `turn`."""
        self._on_dropped = on_dropped
        self._turn = turn
        self._changed = threading.Condition()
        self._held: Snapshot | None = None  # None: a full state is needed; touched by `read` only
        self._resyncing = False  # asked, not yet answered; touched by `read` only
        self._snapshot: Snapshot | None = None
        self._resync: Resync | None = None
        self._end: End | InputError | None = None

    def read(self, messages: Iterable[bytes]) -> None:
        """Apply updates until the stream ends; wrong ones end the session by an InputError in `take`."""
        try:
            for raw in messages:
                with self._turn.waited_for():
                    self._update(parse(pb.Update, raw))
            self.end(End.CLIENT)
        except InputError as error:
            self.end(error)
        except grpc.RpcError:  # the client went away
            self.end(End.CLIENT)
        except Exception:
            logger.exception("reading a session failed")
            self.end(End.FAILED)

    def take(self) -> Snapshot | Resync | End:
        """Wait for what to do next; raises the InputError that ended the session."""
        with self._changed:
            self._changed.wait_for(lambda: self._snapshot or self._resync or self._end)
            if isinstance(self._end, InputError):
                raise self._end
            if self._end not in (None, End.CLIENT):
                return self._end
            if self._resync is not None:
                resync, self._resync = self._resync, None
                return resync
            snapshot, self._snapshot = self._snapshot, None
            return snapshot if snapshot is not None else End.CLIENT

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be taken."""
        with self._changed:
            return not (self._snapshot or self._resync or self._end)

    def end(self, why: End | InputError) -> None:
        """Nothing more will come; the first reason stands, but stopping goes before the client's end."""
        with self._changed:
            if self._end is None or (self._end is End.CLIENT and why is End.STOPPING):
                self._end = why
            self._changed.notify_all()

    def _update(self, update: pb.Update) -> None:
        kind = update.WhichOneof("kind")
        if kind == "open":
            self._hold(read_snapshot(update.open.snapshot))
            self._resyncing = False
        elif kind == "delta":
            self._delta(update.delta)
        else:
            raise InputError("update", None, "must be open or delta")

    def _delta(self, delta: pb.Delta) -> None:
        held = self._held
        if held is None or delta.base_revision != held.revision:
            self._ask(delta.base_revision)
            return
        snapshot = apply_delta(held, delta)
        check_snapshot(snapshot, check_tables=delta.HasField("curves"))
        self._hold(snapshot)

    def _hold(self, snapshot: Snapshot) -> None:
        self._held = snapshot
        with self._changed:
            if self._snapshot is not None:
                self._on_dropped()
            self._snapshot = snapshot
            self._changed.notify_all()

    def _ask(self, wanted: int) -> None:
        if self._resyncing:  # deltas sent before the client heard of it
            return
        self._resyncing = True
        held, self._held = self._held, None
        revision = 0 if held is None else held.revision
        with self._changed:
            self._resync = Resync(f"base_revision={wanted} is not what the service holds", revision)
            self._changed.notify_all()


def read_snapshot(message: pb.Snapshot) -> Snapshot:
    """The checked snapshot in `message`; raises InputError."""
    check_size(message.requests)
    snapshot = decode_snapshot(message)
    check_snapshot(snapshot)
    return snapshot
