"""Where the plugin can be asked: an HTTP port, if one is wanted, and a socket for other processes of the same user.

The socket is an abstract Unix one (Linux): it has no file, so nothing stays behind however the engine dies, and who
connects is checked by user. Other systems have the port only.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kvhorizon.wire.local import NAME, local_address

logger = logging.getLogger(__name__)

LONGEST_REQUEST_S = 5.0
Answer = tuple[str, bytes]  # content type and body
Route = Callable[[Mapping[str, str]], Answer | None]  # None: there is nothing of that name


class _Handler(BaseHTTPRequestHandler):
    """GET only; one answer per connection."""

    timeout = LONGEST_REQUEST_S
    routes: Mapping[str, Route] = {}

    def do_GET(self) -> None:
        """Answer by route."""
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        try:
            route = self.routes.get(address.path)
            answer = None if route is None else route(query)
        except Exception:
            logger.exception("kvhorizon could not answer %s", address.path)
            self.send_error(500)
            return
        if answer is None:
            self.send_error(404)
            return
        kind, body = answer
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not into the engine's log."""

    def address_string(self) -> str:
        """Unix sockets have none."""
        return "local"


class _TcpServer(ThreadingHTTPServer):
    daemon_threads = True


class _UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    allow_reuse_address = False
    daemon_threads = True

    def server_bind(self) -> None:
        """A Unix socket has neither a host's name nor a port."""
        self.socket.bind(self.server_address)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """The same user, or root."""
        credentials = request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", credentials)[1] in (os.geteuid(), 0)


class Listener:
    """One server with a thread of its own."""

    def __init__(self, server: ThreadingHTTPServer, name: str) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.5,), name=name, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """As bound."""
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Give the address back."""
        self._server.shutdown()
        self._server.server_close()


def listen_tcp(host: str, port: int, routes: Mapping[str, Route]) -> Listener:
    """On `host:port`; port 0 is any free one. Raises OSError where it cannot be bound."""
    return Listener(_TcpServer((host, port), _handler(routes)), f"{NAME}-http")


def listen_locally(instance: str, engine: int, routes: Mapping[str, Route]) -> Listener:
    """For processes that know the instance's name. Raises OSError where it cannot be bound."""
    address: Any = local_address(instance, engine)
    return Listener(_UnixServer(address, _handler(routes)), f"{NAME}-local")


def _handler(routes: Mapping[str, Route]) -> type[_Handler]:
    return type("Handler", (_Handler,), {"routes": routes})


def as_json(value: object) -> Answer:
    """An answer."""
    return "application/json", json.dumps(value).encode()
