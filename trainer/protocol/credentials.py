"""What the members of a run show each other: one secret text, made for each attempt.

It holds the run's token, and a P-256 key with its certificate, which signs itself. The
coordinator serves TLS with them, and whoever connects shows the same certificate and
trusts no other: that alone keeps strangers out before a single message is read. The token
is shown inside of that, so that neither the certificate nor the token suffices by itself.

The text is ``TOKEN.KEY.CERTIFICATE``, the last two being DER in URL-safe base64. It travels in
the environment or through Secret Manager. All cryptography is gRPC's (TLS) and that of the
``cryptography`` package (making the key and the certificate).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from trainer.protocol.secretmanager import read_secret
from trainer.rundir.directory import token_sha256
from trainer.rundir.names import ENV_TOKEN, ENV_TOKEN_SECRET
from trainer.rundir.usererror import Unusable

NAME = "coordinator.swell"  # what the certificate is for: addresses change with the leader
LIMIT = 8192  # characters of the text; it has about 800

# No clock decides who may connect: the certificate is good for one run, and goes with it.
_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=timezone.utc)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)  # RFC 5280, 4.1.2.5: no end


@dataclass(frozen=True)
class Credentials:
    """The secrets of one run. Their ``repr`` shows none.

    Attributes:
        text: all of them as one text.
        token: what an agent shows as ``authorization: Bearer TOKEN``.
        key: the private key, PEM.
        certificate: the certificate, PEM.
    """

    text: str = field(repr=False)
    token: str = field(repr=False)
    key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """The inverse of ``new_secret``. Raises ValueError, which shows nothing of ``text``."""
        parts = text.split(".")
        if len(text) > LIMIT or len(parts) != 3 or not all(parts):
            raise ValueError("it does not consist of a token, a key and a certificate")
        try:
            key, certificate = (_decode(part) for part in parts[1:])
        except (ValueError, binascii.Error):
            raise ValueError("its key or its certificate is damaged") from None
        return cls(text, parts[0], _pem("PRIVATE KEY", key), _pem("CERTIFICATE", certificate))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What an agent shows with its stream."""
        return (("authorization", f"Bearer {self.token}"),)

    def shown_in(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether ``metadata`` has the run's token; the time it takes tells nothing of it."""
        shown = str(dict(metadata).get("authorization", ""))
        return hmac.compare_digest(shown.encode(), self.metadata[0][1].encode())

    def for_server(self) -> Any:
        """gRPC's credentials of a coordinator: peers must show the run's certificate."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.certificate,
            require_client_auth=True,
        )

    def for_client(self) -> Any:
        """gRPC's credentials of an agent, which trusts the run's certificate and no other."""
        import grpc

        return grpc.ssl_channel_credentials(self.certificate, self.key, self.certificate)


# The certificate's name stands in for that of any address, and no proxy is on the way.
CHANNEL_OPTIONS = (("grpc.ssl_target_name_override", NAME), ("grpc.enable_http_proxy", 0))


def new_secret() -> str:
    """Makes the secret of a new run."""
    # Late: only a launch needs these, and they take a fifth of a second.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate_der = certificate.public_bytes(serialization.Encoding.DER)
    return ".".join([secrets.token_hex(32), _encode(key_der), _encode(certificate_der)])


def find_credentials(env: Mapping[str, str], run: Mapping[str, Any]) -> Credentials:
    """The credentials of the run whose run.json is ``run``, as ``env`` brings them.

    Raises Unusable when they are missing, damaged, or another run's, and
    OSError when Secret Manager, which has them, does not answer.
    """
    where, text = ENV_TOKEN, env.get(ENV_TOKEN)
    if not text and (version := env.get(ENV_TOKEN_SECRET)):
        where, text = version, read_secret(version, env)
    if not text:
        raise Unusable(
            "SW4006", f"{ENV_TOKEN} or {ENV_TOKEN_SECRET} must be set: the launcher does it"
        )
    if run.get("token_sha256") != token_sha256(text):
        raise Unusable("SW4007", f"{where} is not the secret of the run {run.get('id')}")
    try:
        return Credentials.parse(text)
    except ValueError as error:
        raise Unusable(
            "SW4008",
            f"{where} is not a run's secret: {error}; "
            "python -m trainer.protocol.credentials makes one",
        ) from None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _pem(kind: str, der: bytes) -> bytes:
    import ssl  # late, too: `swell plan` does without

    text = ssl.DER_cert_to_PEM_cert(der)  # which knows one kind only
    return text.replace("CERTIFICATE", kind).encode()


if __name__ == "__main__":
    print(new_secret())
