"""Asking the plugin in an engine: by its HTTP port, or by the socket that processes of the same user find by name.

The socket is an abstract Unix one (Linux): it has no file, so nothing stays behind however the engine dies.
"""

from __future__ import annotations

import http.client
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

NAME = "kvhorizon"


def local_address(instance: str, engine: int) -> str:
    """The socket of one engine; `instance` is vLLM's own name of a server's processes."""
    return f"\0{NAME}-{instance}-{engine}"


def local_addresses() -> list[str]:
    """Sockets of all engines on this machine."""
    try:
        table = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return sorted({"\0" + name for name in re.findall(rf" @({NAME}-\S+-\d+)$", table, re.MULTILINE)})


def ask(address: str, path: str, timeout_s: float = 1.0) -> bytes | None:
    """The body at `path` of a local socket or of `http://host:port`; None for 404. Raises OSError for no answer."""
    connection = _connection(address, timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 404):
            raise OSError(f"answered {answer.status}")
        return body if answer.status == 200 else None
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer ({type(error).__name__})") from error
    finally:
        connection.close()


class _LocalConnection(http.client.HTTPConnection):
    def __init__(self, address: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._address = address

    def connect(self) -> None:
        """To the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._address)


def _connection(address: str, timeout_s: float) -> http.client.HTTPConnection:
    if address.startswith("\0"):
        return _LocalConnection(address, timeout_s)
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        return http.client.HTTPConnection(parts.hostname or "localhost", parts.port, timeout=timeout_s)
    except ValueError as error:  # a port that is none
        raise OSError(str(error)) from None
