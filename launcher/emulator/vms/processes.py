"""Processes by session and by parent, so that none is left behind.

A VM's keeper is a subreaper: whatever the VM's command leaves behind becomes the keeper's child,
and can be found, killed and reaped whoever started it. The emulator is one, too, for what a keeper
leaves that is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class ProcessInfo:
    """One line of the process table; ``dead`` ones only wait to be reaped."""

    pid: int
    parent: int
    session: int
    dead: bool


def process_table() -> Iterator[ProcessInfo]:
    """Yields all processes that can be seen."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            # Not by pathlib, which would take most of the time: VMs are killed by this table.
            with contextlib.suppress(OSError), open(f"/proc/{entry.name}/stat", "rb") as file:
                # pid (name) state parent group session …; the name may hold anything.
                stat = file.read().rpartition(b")")[2].split()
                dead = stat[0] in (b"Z", b"X")
                yield ProcessInfo(int(entry.name), int(stat[1]), int(stat[3]), dead)


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its descendants leave behind."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """Makes this process die with its parent, or at once if that has died before.

    It survives exec, and it reaches this process only: a program that starts others and may lose
    its parent at any time does the same for them, as Swell's agent does for its workers.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def signal_session(session: int, number: int) -> int:
    """Sends a signal to all processes of a session. Returns how many it found.

    A session rather than a process group, because a shell with job control puts its jobs
    into groups of their own. Dead orphans are reaped; the session's leader is left to its parent.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)  # at once, so that nothing in the group can fork meanwhile
    return _signal([p for p in process_table() if p.session == session], number, spare=session)


def stop_session(session: int) -> None:
    """Stops a session, and whatever its processes have started, in a session of its own or not."""
    signal_session(session, signal.SIGSTOP)
    found: set[int] = set()
    while new := _started_by(session) - found:  # until nothing that runs can start another
        for pid in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGSTOP)
        found |= new


def _started_by(session: int) -> set[int]:
    """The descendants of a session that are in another one."""
    table = [one for one in process_table() if not one.dead]
    inside = {one.pid for one in table if one.session == session}
    found: set[int] = set()
    while new := {one.pid for one in table if one.parent in inside | found} - inside - found:
        found |= new
    return found


def kill_children(spare: int | None = None) -> int:
    """Kills and reaps all children of this process but ``spare``. Returns how many it found."""
    children = [p for p in process_table() if p.parent == os.getpid() and p.pid != spare]
    return _signal(children, signal.SIGKILL)


def _signal(processes: list[ProcessInfo], number: int, spare: int | None = None) -> int:
    found = 0
    for process in processes:
        if not process.dead:
            found += 1
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, number)
        elif process.parent == os.getpid() and process.pid != spare:
            found += 1
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    return found
