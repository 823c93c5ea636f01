"""The token of an emulator: whoever may read its state directory may use its API.

The API runs what it is sent, so it must know its own user's programs from everybody else's. The
token is a file of the state directory that no other user can read. It lives as long as the state
does: an emulator that starts again is used by those who used the one before.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from trainer.rundir.private import write_private
from trainer.rundir.usererror import UserError

NAME = "token"
_LONGEST = 4096  # bytes; somebody may have put another file there


class TokenError(UserError):
    """A token that others could have read or written."""


class Token:
    """One emulator's token.

    Args:
        text: what clients show.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def new(cls) -> Token:
        """Returns a token of 256 random bits."""
        return cls(secrets.token_urlsafe(32))

    def admits(self, authorization: str) -> bool:
        """Whether a request with this Authorization header may use the API."""
        return shows(authorization, self.text)

    def of_job(self, name: str) -> str:
        """The access token that the VMs of one CustomJob get from their metadata servers.

        It follows from the name, so it outlives a restart of the emulator; it tells nothing about
        this token or another job's.
        """
        return hmac.new(self.text.encode(), name.encode(), hashlib.sha256).hexdigest()


def shows(authorization: str, bearer: str) -> bool:
    """Whether an Authorization header shows ``bearer``; how long this takes tells nothing."""
    return hmac.compare_digest(authorization.encode(), f"Bearer {bearer}".encode())


def keep_token(state: Path) -> Token:
    """Returns the token of a state directory, which is made unless it is there.

    Raises TokenError, and OSError when it can be neither read nor written.
    """
    path = state / NAME
    if not path.exists():
        write_private(path, Token.new().text)
    return read_token(state)


def read_token(state: Path) -> Token:
    """Returns the token of a state directory.

    Raises TokenError when somebody else may know it, and OSError when there is none to be read.
    """
    path = state / NAME
    with open(path, "rb") as file:
        about = os.fstat(file.fileno())
        text = file.read(_LONGEST).decode("ascii", "replace").strip()
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077 or not text:
        raise TokenError(
            "SW2213",
            f"{path} is not the token of this user alone; remove it: the emulator makes another",
        )
    return Token(text)
