"""The first program of a VM: ties its life to the emulator's, then becomes the command.

    python -I -S boot.py EMULATOR_PID COMMAND [ARGUMENT ...]

A program of its own rather than code between fork and exec, which is not safe in a
process that has threads. Run as a file: it must start fast and import little.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Becomes the command. Returns 126 or 127, as a shell does, when that is not possible."""
    emulator, command = int(sys.argv[1]), sys.argv[2:]
    # Survives exec. It reaches this process only: a program that starts others and may lose
    # its parent at any time does the same for them, as Swell's agent does for its workers.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != emulator:  # it died before the line above
        return 1
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot run {command[0]!r}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main())
