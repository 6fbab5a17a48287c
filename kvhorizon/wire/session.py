"""The client's end of a session: the newest snapshot goes out, as a delta if possible; plans come back."""

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from kvhorizon.errors import InputError
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.convert import decode_plan, encode_snapshot
from kvhorizon.wire.delta import can_follow, encode_delta
from kvhorizon.wire.failures import GarbagePlan, SolverError, SolverLate, SolverUnavailable, failure
from kvhorizon.wire.pruned import pruned
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.validate import check_plan


class Session:
    """One stream. `send` never waits and never encodes: an engine's step may call it.

    A snapshot not yet on its way is replaced by the next (counted in `replaced`); of a very long queue a part goes out
    (`pruned`). The service's wish for a resync is served here. After a failure, kept in `error`, the session is over:
    make another one.
    """

    def __init__(self, stream: Callable[[Iterator[pb.Update]], Any], address: str, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.replaced = 0  # snapshots never sent, because a newer one came first
        self.resyncs = 0  # asked for by the service
        self.error: SolverError | None = None
        self._stream = stream
        self._call: Any = None
        self._changed = threading.Condition()
        self._pending: Snapshot | None = None
        self._latest: Snapshot | None = None  # handed to `send` last
        self._sent: Snapshot | None = None  # what the service holds; None: it needs everything
        self._plan: Plan | None = None
        self._closed = False

    @property
    def newest(self) -> Plan | None:
        """The newest plan that arrived, if any."""
        return self._plan

    def send(self, snapshot: Snapshot) -> None:
        """Hand over the newest state, its columns not to be modified afterwards; raises what ended the session."""
        with self._changed:
            self._raise_if_over()
            self.replaced += self._pending is not None
            self._pending = self._latest = snapshot
            self._changed.notify_all()
        if self._call is None:
            self._call = self._stream(self._updates())
            threading.Thread(target=self._receive, name="kvhorizon-plans", daemon=True).start()

    def plan(self, snapshot: Snapshot, timeout_s: float | None = None) -> Plan:
        """`send` and wait for a plan based on this snapshot; raises SolverLate where none comes in time."""
        with self._changed:
            self._plan = None  # revisions may have begun anew
        self.send(snapshot)
        return self.wait(snapshot.revision, timeout_s)

    def wait(self, revision: int, timeout_s: float | None = None) -> Plan:
        """The newest plan, once it is based on `revision` or a later one of the epoch sent last.

        Raises what ended the session, or SolverLate where nothing comes in time.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        with self._changed:
            self._changed.wait_for(lambda: self._planned(revision) or self._closed, limit_s)
            if self._plan is not None and self._planned(revision):
                return self._plan
            self._raise_if_over()
        raise SolverLate(f"solver at {self.address}: no plan for revision {revision} within {limit_s} s")

    def close(self) -> None:
        """End the stream. Closing twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _planned(self, revision: int) -> bool:
        if self._plan is None or self._latest is None:
            return False
        return self._plan.engine_epoch == self._latest.facts.engine_epoch and self._plan.based_on_revision >= revision

    def _raise_if_over(self) -> None:
        if self.error is not None:
            raise self.error
        if self._closed:
            raise SolverUnavailable(f"solver at {self.address}: the session is closed")

    def _updates(self) -> Iterator[pb.Update]:
        """Runs on gRPC's thread: encodes what is newest, waits for more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closed)
                if self._closed or self._pending is None:
                    return
                newest, self._pending = self._pending, None
            snapshot = pruned(newest)
            with self._changed:
                base, self._sent = self._sent, snapshot
            yield _update(base, snapshot)

    def _receive(self) -> None:
        """Runs on a thread of its own until the stream ends."""
        try:
            for message in self._call:
                if message.HasField("resync"):
                    self._resync()
                else:
                    self._accept(message)
            self._end(SolverUnavailable(f"solver at {self.address}: it ended the session"))
        except grpc.RpcError as error:
            self._end(failure(self.address, error))
        except InputError as error:
            self._end(GarbagePlan(f"solver at {self.address}: {error}"))
            self._call.cancel()
        except Exception as error:  # a fault of ours must not leave a caller waiting for plans
            self._end(SolverUnavailable(f"solver at {self.address}: reading plans failed: {type(error).__name__}"))
            self._call.cancel()

    def _resync(self) -> None:
        with self._changed:
            self.resyncs += 1
            self._sent = None
            self._pending = self._latest
            self._changed.notify_all()

    def _accept(self, message: pb.Plan) -> None:
        plan = decode_plan(message)
        check_plan(plan)
        with self._changed:
            self._plan = plan
            self._changed.notify_all()

    def _end(self, error: SolverError) -> None:
        with self._changed:
            if not self._closed:
                self.error = error
            self._closed = True
            self._changed.notify_all()


def _update(base: Snapshot | None, snapshot: Snapshot) -> pb.Update:
    if base is None or not can_follow(base, snapshot):
        return pb.Update(open=pb.Open(snapshot=encode_snapshot(snapshot)))
    return pb.Update(delta=encode_delta(base, snapshot))
