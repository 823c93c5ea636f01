"""Who vouches for the members of a run: a certificate authority of its own.

The launcher keeps the authority, and has it issue a secret for each attempt: the CustomJobs of a
run know each other by the authority, and each can be told from the others by the name in its
certificate. So one that was given up is kept out without touching those that train.

Keys are P-256's; all cryptography is that of the ``cryptography`` package.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from trainer.protocol.credentials import decode, encode, name_of, written

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

NAME = "authority.swell"
# Of P-256's group of points (FIPS 186-4, D.1.2.3).
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# No clock decides who may connect: a certificate is good for one run, and goes with it.
_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=timezone.utc)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)  # RFC 5280, 4.1.2.5: no end


@dataclass(frozen=True)
class Authority:
    """Issues the secrets of one run's attempts. Its ``repr`` shows nothing.

    Attributes:
        key: the private key, DER.
        certificate: which every member of the run trusts, DER.
    """

    key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Authority:
        """Makes one."""
        from cryptography.hazmat.primitives.asymmetric import ec  # late: it takes 0.2 s

        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_private(key), _certificate(key.public_key(), NAME, NAME, key))

    @classmethod
    def of(cls, run_key: str, attempt: int) -> Authority:
        """Makes the one that begins with an attempt, of the run's key: always the same.

        So all who look after the run with its key issue secrets beside each other's.
        """
        from cryptography.hazmat.primitives.asymmetric import ec

        drawn = hmac.new(run_key.encode(), f"swell authority {attempt}".encode(), hashlib.sha512)
        number = int.from_bytes(drawn.digest(), "big")
        # 512 bits: how far the remainder is from evenly drawn does not matter (FIPS 186-5, A.2.1).
        key = ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP256R1())
        serial = int.from_bytes(drawn.digest()[:16], "big")
        own = _certificate(key.public_key(), NAME, NAME, key, serial)
        return cls(_private(key), own)

    @classmethod
    def parse(cls, text: str) -> Authority:
        """The inverse of ``text``. Raises ValueError, which shows nothing of it."""
        key, dot, certificate = text.strip().partition(".")
        if not (key and dot and certificate):
            raise ValueError("it does not consist of a key and a certificate")
        return cls(decode(key), decode(certificate))

    @property
    def text(self) -> str:
        """All of it as one text."""
        return f"{encode(self.key)}.{encode(self.certificate)}"

    def issue(self, attempt: int) -> str:
        """Makes the secret of an attempt; see trainer.protocol.credentials for its form."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        ours = serialization.load_der_private_key(self.key, None)
        assert isinstance(ours, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(key.public_key(), name_of(attempt), NAME, ours)
        # The same for all attempts: whoever holds it is let in by any of them.
        token = hmac.new(self.key, b"swell token", hashlib.sha256).hexdigest()
        return written(attempt, token, _private(key), certificate, self.certificate)


def new_secret() -> str:
    """Makes the secret of a run that has one attempt, and an authority that nobody keeps."""
    return Authority.new().issue(1)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate(
    key: ec.EllipticCurvePublicKey,
    name: str,
    issuer: str,
    by: ec.EllipticCurvePrivateKey,
    serial: int | None = None,
) -> bytes:
    """Says that ``key`` is ``name``'s; an authority's, if it says so of itself. DER.

    With a serial number it is always the same for the same arguments.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    is_authority = name == issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None),
            critical=True,
        )
    )
    if not is_authority:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
        ).add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    signed = builder.sign(by, hashes.SHA256(), ecdsa_deterministic=serial is not None or None)
    return signed.public_bytes(serialization.Encoding.DER)


def _name(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


if __name__ == "__main__":
    print(new_secret())
