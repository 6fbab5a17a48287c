"""Mutual TLS between an engine and a shared solver: both ends show a certificate of an authority that both trust.

Three PEM files make an end's identity. The service reads them again when they change, so a renewed certificate needs no
restart; a client reads them when it connects, and so with every reconnect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import grpc

from kvhorizon.errors import InputError


class Tls(NamedTuple):
    """Paths of PEM files."""

    certificate: Path  # of this end, with any intermediate ones
    key: Path  # of this certificate
    authority: Path  # whose certificates the other end may show


def tls_of(certificate: Path | None, key: Path | None, authority: Path | None) -> Tls | None:
    """All three, or None where none is given. Raises InputError for a part of them, or for a file that is not there."""
    given = {"tls_cert": certificate, "tls_key": key, "tls_ca": authority}
    missing = [name for name, path in given.items() if path is None]
    if len(missing) == len(given):
        return None
    if certificate is None or key is None or authority is None:
        raise InputError(missing[0], None, "must be given where another of tls_cert, tls_key and tls_ca is")
    tls = Tls(certificate, key, authority)
    _read(tls)
    return tls


def server_credentials(tls: Tls) -> Any:
    """Credentials that ask every client for a certificate. Raises InputError for a file that cannot be read."""
    read_at = _changed(tls)
    first = _configuration(tls)

    def fetch() -> Any:
        nonlocal read_at
        try:
            seen = _changed(tls)
            if seen == read_at:
                return None  # keep what is in use
            fresh = _configuration(tls)
        except (OSError, InputError):  # in the middle of being replaced
            return None
        read_at = seen
        return fresh

    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=True)


def channel_credentials(tls: Tls) -> Any:
    """Credentials of a client. Raises InputError for a file that cannot be read."""
    certificate, key, authority = _read(tls)
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _configuration(tls: Tls) -> Any:
    certificate, key, authority = _read(tls)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def _changed(tls: Tls) -> tuple[int, ...]:
    return tuple(path.stat().st_mtime_ns for path in tls)


def _read(tls: Tls) -> tuple[bytes, bytes, bytes]:
    certificate, key, authority = (
        _pem(name, path, kind)
        for name, path, kind in zip(
            ("tls_cert", "tls_key", "tls_ca"), tls, (b"CERTIFICATE", b"PRIVATE KEY", b"CERTIFICATE"), strict=True
        )
    )
    return certificate, key, authority


def _pem(name: str, path: Path, kind: bytes) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(name, str(path), f"must be a readable file ({error.strerror})") from None
    if kind + b"-----" not in text:
        raise InputError(name, str(path), f"must be a PEM file with a {kind.decode().lower()}")
    return text
