"""What the members of a run show each other: one secret text, made for each attempt.

It holds the run's token, a P-256 key with a certificate that names the attempt, and the
certificate of the authority that issued it (trainer.protocol.authority). The coordinator serves
TLS with them; whoever connects shows a certificate of the same authority, and trusts no other:
that alone keeps strangers out before a single message is read. The token is shown inside of that,
so that neither the certificate nor the token suffices by itself. The coordinator reads from the
peer's certificate which attempt it is of; an agent expects that of the leader whose claim it
follows.

The text is ``ATTEMPT.TOKEN.KEY.CERTIFICATE.AUTHORITY``, the last three being DER in URL-safe
base64.
It travels in the environment or through Secret Manager. All cryptography is gRPC's (TLS).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.protocol.secretmanager import read_secret
from trainer.rundir.names import ENV_TOKEN, ENV_TOKEN_SECRET
from trainer.rundir.usererror import Unusable

AUTHORITY = "authority_sha256"  # in run.json
LIMIT = 8192  # characters of the text; it has about 1,200

_NAME = re.compile(rb"job-([0-9]{1,9})\.swell")


def name_of(attempt: int) -> str:
    """What an attempt's certificate is for: addresses change with the leader."""
    return f"job-{attempt}.swell"


def attempt_of(names: Iterable[bytes]) -> int | None:
    """The attempt whose certificate has these names; None if it is no attempt's."""
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    return int(found[0].group(1)) if len(found) == 1 else None


@dataclass(frozen=True)
class Credentials:
    """The secrets of one attempt. Their ``repr`` shows none.

    Attributes:
        attempt: its number.
        text: all of them as one text.
        token: what an agent shows as ``authorization: Bearer TOKEN``; the whole run's.
        key: the private key, PEM.
        certificate: the attempt's, PEM.
        authority: the certificate of who issued it, PEM.
    """

    attempt: int
    text: str = field(repr=False)
    token: str = field(repr=False)
    key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    authority: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """The inverse of ``written``. Raises ValueError, which shows nothing of ``text``."""
        parts = text.split(".")
        if len(text) > LIMIT or len(parts) != 5 or not all(parts):
            raise ValueError("it does not consist of five parts")
        attempt, token, *rest = parts
        if not (attempt.isascii() and attempt.isdecimal() and len(attempt) < 10):
            raise ValueError("it does not say whose it is")
        try:
            key, certificate, authority = map(decode, rest)
        except (ValueError, binascii.Error):
            raise ValueError("its key or a certificate is damaged") from None
        return cls(
            int(attempt),
            text,
            token,
            _pem("PRIVATE KEY", key),
            _pem("CERTIFICATE", certificate),
            _pem("CERTIFICATE", authority),
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What an agent shows with its stream."""
        return (("authorization", f"Bearer {self.token}"),)

    def shown_in(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether ``metadata`` has the run's token; the time it takes tells nothing of it."""
        shown = str(dict(metadata).get("authorization", ""))
        return hmac.compare_digest(shown.encode(), self.metadata[0][1].encode())

    def for_server(self) -> Any:
        """gRPC's credentials of a coordinator: peers must show a certificate of the run's."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.authority,
            require_client_auth=True,
        )

    def for_client(self) -> Any:
        """gRPC's credentials of an agent, which trusts the run's authority and no other."""
        import grpc

        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)


def channel_options(attempt: int) -> tuple[tuple[str, str | int], ...]:
    """gRPC's options of a channel to a coordinator on a VM of an attempt."""
    # The certificate's name stands in for that of any address, and no proxy is on the way.
    return (("grpc.ssl_target_name_override", name_of(attempt)), ("grpc.enable_http_proxy", 0))


def written(attempt: int, token: str, key: bytes, certificate: bytes, authority: bytes) -> str:
    """The secret as one text; key and certificates are DER."""
    return ".".join([str(attempt), token, *map(encode, (key, certificate, authority))])


def fingerprint(text: str) -> str:
    """What run.json has of a secret: the SHA-256, in hex, of who issued it."""
    return hashlib.sha256(text.rpartition(".")[2].encode()).hexdigest()


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
            "SW4006", f"{ENV_TOKEN} or {ENV_TOKEN_SECRET} must be set: swell launch does it"
        )
    if run.get(AUTHORITY) != fingerprint(text):
        raise Unusable(
            "SW4007",
            f"{where} is not the secret of the run {run.get('id')}; a newer attempt may have taken "
            "over",
        )
    try:
        return Credentials.parse(text)
    except ValueError as error:
        raise Unusable(
            "SW4008",
            f"{where} is not a run's secret: {error}; "
            "python -m trainer.protocol.authority makes one",
        ) from None


def encode(data: bytes) -> str:
    """A part of a secret as text."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """The inverse of ``encode``. Raises ValueError or binascii.Error."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _pem(kind: str, der: bytes) -> bytes:
    import ssl  # late, too: `swell plan` does without

    text = ssl.DER_cert_to_PEM_cert(der)  # which knows one kind only
    return text.replace("CERTIFICATE", kind).encode()
