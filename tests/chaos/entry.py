"""The first process of a VM: the agent, beside a nursery of workers that has imported everything.

A run of these tests starts dozens of agents, each of which would have its nursery import torch
anew. So the nursery is given to the agent: it is forked of the tests' own server, which has
imported everything once (tests.trainer.ranks). The agent is started as everywhere, and forks,
watches and loses its workers as everywhere; only `fresh` VMs have it start its nursery itself.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from launcher.emulator.vms import netns
from launcher.emulator.vms.processes import die_with
from tests.trainer.ranks import FORKS
from trainer.protocol.nursery import ENV_NURSERY
from trainer.rundir.names import ENV_TOKEN

SITE = Path(__file__).parent / "site"


class Entry:
    """A process in a session of its own, which dies with the one that started it.

    Args:
        command: what it becomes.
        env: its environment.
        log: the file that its output is appended to.
        nursery: whether it is given one.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, nursery: bool
    ) -> None:
        args = (list(command), dict(env), str(log), nursery)
        self._process = FORKS.Process(target=_become, args=args, daemon=True, name="vm")
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.exitcode

    def wait(self) -> None:
        """Waits for its end."""
        self._process.join()

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it lives."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)


def _become(command: list[str], env: dict[str, str], log: str, nursery: bool) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor, taken in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(taken, descriptor)
    kept = []
    if nursery:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if not os.fork():
            _close_all_but(theirs)
            _be_nursery(theirs, env)
        kept = [ours]
        ours.set_inheritable(True)
        env[ENV_NURSERY] = str(ours.fileno())
    _close_all_but(*kept)
    die_with(os.getppid())
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
        signal.signal(ignored, signal.SIG_DFL)
    os.execvpe(command[0], command, env)


def _close_all_but(*kept: socket.socket) -> None:
    below = 3
    for descriptor in sorted(one.fileno() for one in kept):
        os.closerange(below, descriptor)
        below = descriptor + 1
    os.closerange(below, os.sysconf("SC_OPEN_MAX"))


def _be_nursery(agent: socket.socket, env: dict[str, str]) -> None:
    """What `python -m trainer.worker` does, in the surroundings that the agent has by then."""
    from trainer.worker import nursery
    from trainer.worker.worker import main

    try:
        os.environ.clear()
        os.environ.update({key: value for key, value in env.items() if key != ENV_TOKEN})
        sys.argv = [nursery.__file__]
        runpy.run_path(str(SITE / "sitecustomize.py"))
        nursery.serve(_Line(agent))
        code = main()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    finally:
        os._exit(1)


class _Line(socket.socket):
    """A nursery's socket. Before the first order is taken, it follows the agent into its VM."""

    def __init__(self, line: socket.socket) -> None:
        super().__init__(fileno=line.detach())
        self._followed = False

    def recvmsg(self, *args: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        if not self._followed:
            select.select([self], [], [])
            _follow(os.getppid())
            self._followed = True
        return super().recvmsg(*args)


def _follow(process: int) -> None:
    """Goes where a process is: its cgroup, and its network, host name and files."""
    root = netns.cgroup_root()
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        if root and line.startswith("0::/"):
            with suppress(OSError):  # not ours to enter
                (root / line[len("0::/") :] / "cgroup.procs").write_text(str(os.getpid()))
    folder = os.getcwd()
    for kind in ("net", "uts", "mnt"):
        there = f"/proc/{process}/ns/{kind}"
        if os.readlink(there) != os.readlink(f"/proc/self/ns/{kind}"):
            with open(there) as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns", there)
    os.chdir(folder)
