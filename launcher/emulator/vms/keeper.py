"""The first program of a VM: starts its command and keeps it, whatever becomes of the emulator.

    python -I -S keeper.py ORDER COMMAND [ARGUMENT ...]

It is the command's parent, writes what the command prints into the replica's log, and once the
command has ended it kills what is left of the VM. The command dies with it. A program of its own,
so that an emulator that is killed takes no VM along; and one that imports little, for there is one
for each VM.

``ORDER`` is an object of JSON::

    record    a file, open for appending: one line of JSON when the command runs, {"keeper",
              "command", "boot"}: process ids, and since which start of the machine they count; and
              one when nothing of the VM is left, {"code"}. A negative one is a signal's number.
    held      further open files, kept open for as long as the command lives: they are locks
    logs, job, replica       where the output goes, as launcher.emulator.logs has it
    orphans   whether what the command leaves behind is part of the VM, in whatever session it is
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # with -I and -S nothing but the standard library is on the path
    sys.path.insert(0, str(Path(__file__).parents[3]))

from launcher.emulator.logs import ReplicaLog, StreamLog
from launcher.emulator.vms.processes import adopt_orphans, die_with, kill_children, signal_session

CHUNK = 64 * 1024
DRAIN_SECONDS = 1.0  # for output that is still in a pipe when all its writers should be gone
RECHECK_SECONDS = 0.01
DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Python ignores the last two, and exec keeps that.
RESTORED = (*DEAF_TO, signal.SIGPIPE, signal.SIGXFSZ)


def main() -> int:
    """Sees the command through to its end."""
    order, command = json.loads(sys.argv[1]), sys.argv[2:]
    record: int = order["record"]
    for file in (record, *order["held"]):
        os.set_inheritable(file, False)
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    log = ReplicaLog(Path(order["logs"]), order["job"], order["replica"])
    if order["orphans"]:
        adopt_orphans()
    pid, pipes = _start(command)
    signal.signal(signal.SIGCHLD, lambda *_: _reap(pid))
    _write(record, {"keeper": os.getpid(), "command": pid, "boot": boot()})
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"\n")  # whoever started this waits for it, or was killed meanwhile
    os.dup2(0, 1)
    streams = dict(zip(pipes, [log.stream("INFO"), log.stream("ERROR")], strict=True))
    ended = os.pidfd_open(pid)
    _copy(streams, ended)
    # The command was the VM: what it leaves behind goes with it.
    while signal_session(pid, signal.SIGKILL) or (order["orphans"] and kill_children(spare=pid)):
        time.sleep(RECHECK_SECONDS)
    _copy(streams, None)
    for stream in streams.values():
        with contextlib.suppress(OSError):
            stream.end()
    _, status = os.waitpid(pid, 0)
    _write(record, {"code": os.waitstatus_to_exitcode(status)})
    return 0


def _start(command: list[str]) -> tuple[int, list[int]]:
    """Starts the command in a session of its own. Returns its process id and its two outputs."""
    up, said, complained = os.pipe(), os.pipe(), os.pipe()
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        os._exit(_become(command, keeper, up[1], said[1], complained[1]))
    for pipe in (up, said, complained):
        os.close(pipe[1])
    os.read(up[0], 1)  # its end: there is a session now, by whose number signals find the VM
    os.close(up[0])
    return pid, [said[0], complained[0]]


def _become(command: list[str], keeper: int, up: int, stdout: int, stderr: int) -> int:
    """Becomes the command. Returns 126 or 127, as a shell does, when that is not possible."""
    die_with(keeper)
    os.setsid()
    os.close(up)
    for number in RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]!r}: {error.strerror}\n".encode())
        return 127 if isinstance(error, FileNotFoundError) else 126


def _reap(command: int) -> None:
    """Lets go of orphans that have ended. The command is not reaped: its id must stay its own."""
    with contextlib.suppress(ChildProcessError):
        while child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if child.si_pid == command:
                return
            os.waitpid(child.si_pid, 0)


def _copy(streams: dict[int, StreamLog], ended: int | None) -> None:
    """Copies output until the command has ended; without it, what is still to come."""
    poll = select.poll()
    for file in (*streams, *([] if ended is None else [ended])):
        poll.register(file, select.POLLIN)
    left = len(streams)
    deadline = time.monotonic() + DRAIN_SECONDS
    while ended is not None or (left and time.monotonic() < deadline):
        for file, _ in poll.poll(None if ended is not None else DRAIN_SECONDS * 1000):
            if file == ended:
                return
            data = os.read(file, CHUNK)
            if data:
                with contextlib.suppress(OSError):  # a full disk is no reason to end the command
                    streams[file].feed(data)
            else:
                poll.unregister(file)
                left -= 1


def boot() -> str:
    """Tells this start of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _write(record: int, line: dict[str, Any]) -> None:
    os.write(record, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
