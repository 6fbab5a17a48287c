"""The client of the solver service, for engines, tools and notebooks.

from kvhorizon.wire.client import Client
with Client("localhost:50051") as client:
    plan = client.plan_once(snapshot)
    with client.session() as session:
        plan = session.plan(snapshot)
"""

import threading
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvhorizon.errors import InputError
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.channel import PARTING_S, SERVICE, connect
from kvhorizon.wire.convert import decode_plan, encode_snapshot
from kvhorizon.wire.failures import GarbagePlan, failure
from kvhorizon.wire.session import Session
from kvhorizon.wire.tls import Tls
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.v1 import scheduler_pb2_grpc as stubs
from kvhorizon.wire.validate import check_plan_for


class Client:
    """One connection to the service at `address`, `host:port` or `unix:/path`; usable from several threads.

    Calls raise SolverUnavailable, SolverRefused or GarbagePlan, all of them SolverError.
    """

    def __init__(self, address: str, timeout_s: float = 5.0, tls: Tls | None = None) -> None:
        """`timeout_s` is the deadline of each call that names none; `tls` proves who we are to a shared service."""
        self.address = address
        self.timeout_s = timeout_s
        self._channel = connect(address, tls)
        self._stub: Any = stubs.PlannerStub(self._channel)  # type: ignore[no-untyped-call, unused-ignore]

    def plan_once(self, snapshot: Snapshot, timeout_s: float | None = None) -> Plan:
        """The service's plan for `snapshot`, checked against it."""
        message = self._call(self._stub.PlanOnce, encode_snapshot(snapshot), timeout_s)
        try:
            plan = decode_plan(message)
            check_plan_for(plan, snapshot)
        except InputError as error:
            raise GarbagePlan(f"solver at {self.address}: {error}") from None
        return plan

    def session(self) -> Session:
        """A stream of snapshots out and plans back; the connection is made with the first snapshot."""
        return Session(self._stub.Session, self.address, self.timeout_s)

    def explain(self, snapshot: Snapshot, handles: list[int] | None = None, timeout_s: float | None = None) -> Any:
        """What the service would do with each request named (all by default): an `ExplainReply` message."""
        request = pb.ExplainRequest(snapshot=encode_snapshot(snapshot), handle=handles or ())
        return self._call(self._stub.Explain, request, timeout_s)

    def explain_session(self, engine_id: str, handles: list[int] | None = None) -> Any:
        """What the newest plan of that engine's session means for each request named: an `ExplainReply` message."""
        return self._call(self._stub.Explain, pb.ExplainRequest(engine_id=engine_id, handle=handles or ()), None)

    def ready(self, timeout_s: float | None = None) -> bool:
        """Whether the service is there and serving, within the deadline."""
        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=timeout_s or self.timeout_s)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """End the connection and all its sessions.

        gRPC waits until what is under way is over, which is never where the peer has stopped reading (grpc/grpc#20026):
        from such a one we part in the background, and are rid of it once its end of the connection is gone.
        """
        closing = threading.Thread(target=self._channel.close, name="kvhorizon-closing", daemon=True)
        closing.start()
        closing.join(PARTING_S)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        try:
            return method(request, timeout=self.timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise failure(self.address, error) from None
