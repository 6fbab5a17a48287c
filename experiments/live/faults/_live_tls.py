"""Certificates for both ends of a shared solver on this machine, and one that has expired."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kvhorizon.wire.tls import Tls

HOST = "localhost"
_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates of HOST."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kvhorizon experiments")])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self._own = self._signed(self._name, self._key.public_key(), _DAY).add_extension(basic, critical=True)
        self._certificate = self._own.sign(self._key, hashes.SHA256())

    def write(self, folder: Path, expired: bool = False) -> Tls:
        """A certificate, its key and this authority as files."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
        alternative = x509.SubjectAlternativeName([x509.DNSName(HOST)])
        built = self._signed(subject, key.public_key(), -_DAY / 24 if expired else _DAY)
        certificate = built.add_extension(alternative, critical=False).sign(self._key, hashes.SHA256())
        tls = Tls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        pem = serialization.Encoding.PEM
        tls.certificate.write_bytes(certificate.public_bytes(pem))
        tls.authority.write_bytes(self._certificate.public_bytes(pem))
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        tls.key.write_bytes(key.private_bytes(pem, *private))
        return tls

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, good_for: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * _DAY)
            .not_valid_after(now + good_for)
        )
