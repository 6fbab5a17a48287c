"""A running Planner service: bound, observable, and able to stop without dropping what it is doing."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kvhorizon.errors import InputError
from kvhorizon.service.calls import PlannerLike, PlannerService, handlers
from kvhorizon.service.metrics import ServiceMetrics
from kvhorizon.wire.channel import PARTING_S, SERVICE, server_options, unix_path
from kvhorizon.wire.tls import Tls, server_credentials

MAX_SESSIONS = 16
_OTHER_CALLS = 8  # threads beyond those of the sessions


@dataclass(slots=True)
class Server:
    """What `serve` started. Leaving its `with` block stops it."""

    address: str  # as bound: port 0 has become a real one
    metrics: ServiceMetrics
    metrics_port: int | None
    _server: Any
    _service: PlannerService
    _health: Any
    _http: Any

    def serving(self) -> None:
        """Let health checks succeed."""
        for name in ("", SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float = 5.0) -> None:
        """Take no more calls, finish those under way within `grace_s`, and give the addresses back.

        A call is never over for gRPC where its client has stopped reading: we do not wait for those.
        """
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(grace_s)
        self._service.stop()
        stopped.wait(grace_s + PARTING_S)
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        path = unix_path(self.address)
        if path is not None:
            path.unlink(missing_ok=True)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def serve(
    listen: str,
    make_planner: Callable[[], PlannerLike],
    budget: Any,
    metrics_port: int | None = None,
    max_sessions: int = MAX_SESSIONS,
    tls: Tls | None = None,
    refine_s: float = 0.0,
    share_port: bool = False,
) -> Server:
    """Start the service on `listen`, `host:port` (port 0: any free one) or `unix:/path`.

    It answers at once but is reported as serving only after `Server.serving()`. `make_planner` is called once per
    session and once per single call; `budget` is passed on with each plan, and after it the planner has `refine_s`
    seconds to itself while no update waits. `metrics_port` (0: any) serves Prometheus
    metrics on the host of `listen`, for a Unix socket on localhost. With `tls`, clients on `host:port` must show a
    certificate of its authority. With `share_port` other processes may listen on the same port.
    Raises InputError where an address cannot be bound.
    """
    metrics = ServiceMetrics()
    service = PlannerService(make_planner, budget, metrics, max_sessions, refine_s)
    workers = max_sessions + _OTHER_CALLS
    server = grpc.server(
        ThreadPoolExecutor(workers), options=server_options(share_port), maximum_concurrent_rpcs=4 * workers
    )
    server.add_generic_rpc_handlers((handlers(service),))
    checks = health.HealthServicer(
        experimental_non_blocking=True, experimental_thread_pool=ThreadPoolExecutor(max_workers=1)
    )
    checks.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = _bind(server, listen, tls)
    http = _expose(metrics, listen, metrics_port)
    server.start()
    return Server(address, metrics, http.server_port if http else None, server, service, checks, http)


def _bind(server: Any, listen: str, tls: Tls | None) -> str:
    path = unix_path(listen)
    if path is not None:
        _bind_unix(server, listen, path)
        return listen
    credentials = None if tls is None else server_credentials(tls)
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError:
        port = 0
    if port == 0:
        raise InputError("listen", listen, "cannot be bound: in use, or not an address of this machine")
    host, _, _ = listen.rpartition(":")
    return f"{host}:{port}"


def _bind_unix(server: Any, listen: str, path: Path) -> None:
    """Bind so that no other can connect, from the first moment: under a mask, in a folder of the owner's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear(listen, path)
    mask = os.umask(0o177)
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError:
        bound = 0
    finally:
        os.umask(mask)
    if bound == 0:
        raise InputError("listen", listen, "cannot be bound")
    path.chmod(0o600)


def _clear(listen: str, path: Path) -> None:
    """Remove a dead socket; gRPC would remove a living one as well and take its place unnoticed."""
    if not path.exists():
        return
    if not path.is_socket():
        raise InputError("listen", listen, "cannot be bound: a file is there")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise InputError("listen", listen, "cannot be bound: another service listens there")
    path.unlink()


def _expose(metrics: ServiceMetrics, listen: str, port: int | None) -> Any:
    if port is None:
        return None
    named, _, _ = listen.rpartition(":")
    host = "127.0.0.1" if unix_path(listen) else named.strip("[]")
    try:
        return metrics.expose(host, port)
    except OSError as error:
        raise InputError("metrics_port", port, f"cannot be bound on {host}: {error.strerror}") from None
