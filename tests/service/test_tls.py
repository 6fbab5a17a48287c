"""Mutual TLS on a real socket: whoever cannot prove who he is gets no plan."""

import datetime
import os
from pathlib import Path

import pytest
import trustme
from stub_planner import StubPlanner

from kvhorizon.errors import InputError
from kvhorizon.service.server import serve
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import SolverUnavailable
from kvhorizon.wire.tls import Tls, tls_of

HOST = "localhost"


def write(folder: Path, authority: trustme.CA, trusted: trustme.CA, not_after: datetime.datetime | None = None) -> Tls:
    """A certificate of `authority` for an end that trusts `trusted`."""
    folder.mkdir(exist_ok=True)
    issued = authority.issue_cert(HOST, not_after=not_after)
    tls = Tls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    issued.private_key_pem.write_to_path(tls.key)
    tls.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    trusted.cert_pem.write_to_path(tls.authority)
    return tls


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(ours: trustme.CA, tmp_path: Path):
    with serve(f"{HOST}:0", StubPlanner, None, tls=write(tmp_path / "server", ours, ours)) as running:
        running.serving()
        yield running


def answers(address: str, tls: Tls | None) -> bool:
    with Client(address, timeout_s=5.0, tls=tls) as client:
        try:
            client.plan_once(sample_snapshot())
        except SolverUnavailable:
            return False
    return True


def test_both_ends_prove_who_they_are(server, ours: trustme.CA, tmp_path: Path) -> None:
    stranger = trustme.CA()
    assert answers(server.address, write(tmp_path / "known", ours, ours))
    assert not answers(server.address, None)
    assert not answers(server.address, write(tmp_path / "stranger", stranger, ours))
    assert not answers(server.address, write(tmp_path / "suspicious", ours, stranger))


def test_an_expired_certificate_is_refused(server, ours: trustme.CA, tmp_path: Path) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    assert not answers(server.address, write(tmp_path / "late", ours, ours, not_after=yesterday))


def test_a_renewed_certificate_needs_no_restart(server, ours: trustme.CA, tmp_path: Path) -> None:
    renewed = trustme.CA()
    files = write(tmp_path / "server", renewed, renewed)
    for path in files:
        os.utime(path, ns=(1, 1))  # another time than before, however coarse the file system's clock
    assert answers(server.address, write(tmp_path / "renewed", renewed, renewed))
    assert not answers(server.address, write(tmp_path / "old", ours, ours))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("cert.pem", None, None), "tls_key"),
        (("cert.pem", "key.pem", "nowhere.pem"), "nowhere.pem"),
        (("cert.pem", "cert.pem", "ca.pem"), "must be a PEM file with a private key"),
    ],
)
def test_what_is_missing_is_named(ours: trustme.CA, tmp_path: Path, given: tuple, says: str) -> None:
    write(tmp_path, ours, ours)
    with pytest.raises(InputError, match=says):
        tls_of(*(None if name is None else tmp_path / name for name in given))


def test_none_given_is_none() -> None:
    assert tls_of(None, None, None) is None
