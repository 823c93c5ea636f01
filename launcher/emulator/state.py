"""The state directory of an emulator: who works on it, and where that one listens.

An emulator holds the lock of its state for as long as it lives, however it ends. Meanwhile
``<state>/emulator.json`` says who it is and where it serves, to the emulator's user.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.rundir.locks import hold, is_held
from trainer.rundir.private import write_private
from trainer.rundir.usererror import UserError

LAST_CLOSED = 900  # the number of the lock's file, unless the limit of open files is below


class StateInUse(UserError):
    """Another emulator works on the state directory."""


@dataclass(frozen=True)
class Whereabouts:
    """Where an emulator serves.

    Attributes:
        pid: its process id.
        endpoint: base URL of its API; empty while it is only starting.
        storage: base URL of its Cloud Storage.
    """

    pid: int
    endpoint: str = ""
    storage: str = ""


def claim(state: Path) -> int:
    """Makes a state this process's own. Returns the file to close when it is done with it.

    Raises StateInUse.
    """
    first = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    # The kernel closes files in the order of their numbers. When this lock is free, the ports of an
    # emulator that was killed are, too.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    handle = fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, min(LAST_CLOSED, limit - 1))
    os.close(first)
    if hold(handle):
        announce(state, Whereabouts(os.getpid()))
        return handle
    os.close(handle)
    raise StateInUse(
        "SW2205", f"{state} is in use by another emulator; stop it or choose another --state"
    )


def in_use(state: Path) -> bool:
    """Whether an emulator works on a state."""
    return is_held(state / "lock")


def announce(state: Path, where: Whereabouts) -> None:
    """Says where this process serves; it has claimed the state."""
    write_private(_path(state), json.dumps(asdict(where)), spare=True)


def withdraw(state: Path) -> None:
    """Says that it serves no more."""
    _path(state).unlink(missing_ok=True)


def whereabouts(state: Path) -> Whereabouts | None:
    """Where the emulator of a state serves, or will; None when there is none."""
    if not in_use(state):
        return None
    try:
        said = json.loads(_path(state).read_text())
        os.kill(int(said["pid"]), 0)
    except FileNotFoundError:
        return None
    except ProcessLookupError:  # of one that was killed: who has the lock has not said so yet
        return None
    except PermissionError:  # it lives
        pass
    return Whereabouts(int(said["pid"]), str(said["endpoint"]), str(said["storage"]))


def _path(state: Path) -> Path:
    return state / "emulator.json"
