"""Addresses and channels: how the two ends of the contract find each other."""

from pathlib import Path
from typing import Any

import grpc

from kvhorizon.errors import InputError
from kvhorizon.wire.tls import Tls, channel_credentials
from kvhorizon.wire.validate import MAX_MESSAGE_BYTES

SERVICE = "kvhorizon.v1.Planner"
PARTING_S = 1.0  # that ending may take beyond its grace: for gRPC nothing is over that a peer has stopped reading
_MAX_UNIX_PATH = 107  # bytes; the size of sockaddr_un on Linux
_KEEPALIVE_MS = 10_000
_SIZES = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
_CHANNEL_OPTIONS = (
    *_SIZES,
    ("grpc.enable_http_proxy", 0),  # a solver is a neighbour; a proxy meant for the web must not see it
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, perhaps to another worker
)
_SERVER_OPTIONS = (*_SIZES, ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 2))


def server_options(share_port: bool) -> tuple[tuple[str, int], ...]:
    """Of a server; a second service on the same port must fail, unless it is to share it."""
    return (*_SERVER_OPTIONS, ("grpc.so_reuseport", int(share_port)))


def unix_path(address: str) -> Path | None:
    """The socket's path in `unix:/path`, None for `host:port`; raises InputError for anything else."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode()) > _MAX_UNIX_PATH:
            raise InputError("address", address, f"must be unix: and an absolute path of <= {_MAX_UNIX_PATH} bytes")
        return Path(path)
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise InputError("address", address, "must be host:port or unix:/path")
    return None


def connect(address: str, tls: Tls | None = None) -> Any:
    """A channel to `address`; it connects by itself when first used. Raises InputError for an unusable address.

    With `tls` both ends prove who they are; a Unix socket is guarded by its permissions and takes none.
    """
    if tls is None or unix_path(address) is not None:
        unix_path(address)
        return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
    return grpc.secure_channel(address, channel_credentials(tls), options=_CHANNEL_OPTIONS)
