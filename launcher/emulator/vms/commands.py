"""Other programs' commands: where they are, how they are run to their end, why one failed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(name: str) -> str | None:
    """Where a program of the system is, so that nobody's PATH has to be changed to find it."""
    return shutil.which(name, path=SYSTEM_PATH)


def run(
    command: Sequence[str], environment: Mapping[str, str], limit: float
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, whatever its exit code, and returns what it said.

    Raises OSError with a sentence for the user when the command cannot be run, or has not ended
    within ``limit`` seconds; it is killed then.
    """
    try:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        called = " ".join([Path(command[0]).name, *command[1:2]])
        raise OSError(f"{called} did not end within {limit:.0f} s") from None
    except OSError as error:
        raise OSError(f"{command[0]}: {error.strerror}") from None


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Why a command failed: the last thing that it said, or its exit code."""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode}"
