"""One life of a VM: its command, the keeper that sees it through, and the record of both.

The record is a file that the keeper holds locked for as long as it lives: whoever finds the file
knows whether the VM runs, and how its command has ended, whichever emulator started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from launcher.emulator.vms import keeper
from launcher.emulator.vms.processes import signal_session
from trainer.rundir.private import append_private, make_private

RECHECK_SECONDS = 0.01


@dataclass(frozen=True)
class Output:
    """Where a VM's output goes.

    Args:
        root: the folder of all logs.
        job_id: whose logs.
        replica: whose output.
    """

    root: Path
    job_id: str
    replica: str


class Life:
    """A command that was started; it may have ended.

    Args:
        path: its record.
        child: the keeper, if this process has started it.

    Raises OSError when there is no such record.
    """

    def __init__(self, path: Path, child: subprocess.Popen[bytes] | None = None) -> None:
        self.incarnation = int(path.name)
        self._record = path.open("rb")  # the file may go before its content is needed no more
        self._child = child
        while not (said := _read(self._record)) and _held(self._record):
            time.sleep(RECHECK_SECONDS)  # its keeper is only just starting the command
        self._said = said or _read(self._record)

    @classmethod
    async def begin(
        cls,
        folder: Path,
        incarnation: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: Output,
        held: Sequence[int],
        orphans: bool,
    ) -> Life:
        """Starts a command.

        Args:
            folder: where the records of the VM are; those of earlier lives go.
            incarnation: the number of this life.
            command: what to run.
            environment: its variables.
            output: where what it prints goes.
            held: open files to be kept open for as long as it lives.
            orphans: whether what it leaves behind is to be killed whatever session it is in.

        Returns it when the command runs. Raises OSError when it cannot be started.
        """
        make_private(folder)
        for old in _records(folder):
            old.unlink()
        path = folder / str(incarnation)
        with append_private(path) as record:
            fcntl.flock(record, fcntl.LOCK_EX)
            order = {
                "record": record.fileno(),
                "held": list(held),
                "logs": str(output.root),
                "job": output.job_id,
                "replica": output.replica,
                "orphans": orphans,
            }
            with append_private(folder / "keeper.log") as errors:
                # The command dies with the thread that started it: that is the keeper's only one.
                child = subprocess.Popen(
                    [sys.executable, "-I", "-S", keeper.__file__, json.dumps(order), *command],
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    pass_fds=[record.fileno(), *held],
                    start_new_session=True,
                )
        assert child.stdout
        with child.stdout:
            started = await asyncio.to_thread(os.read, child.stdout.fileno(), 1)
        if not started:
            await asyncio.to_thread(child.wait)
            said = (folder / "keeper.log").read_text(errors="replace").strip().splitlines()
            raise OSError(f"its keeper ended: {said[-1] if said else 'it said nothing'}")
        return cls(path, child)

    @classmethod
    def find(cls, folder: Path) -> Life | None:
        """The last life of a VM that an emulator has begun; None when there is none."""
        for path in sorted(_records(folder), key=lambda path: int(path.name), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                life = cls(path)
                if life._said:
                    return life
                life._record.close()
        return None

    @property
    def command(self) -> int:
        """The process id of the command, which is also its session's."""
        return int(self._said["command"])

    @property
    def session(self) -> int | None:
        """The session in which something of the VM may be left; None when there is none.

        Its number may be another's by now when the keeper has cleared it away, or the machine was
        started anew.
        """
        if self._said["boot"] != keeper.boot() or "code" in self._said:
            return None
        return self.command

    @property
    def living(self) -> bool:
        """Whether the command runs, or is being cleared away."""
        return not self._record.closed and _held(self._record)

    async def ended(self) -> int:
        """Waits for the end. Returns the exit code; a negative one is a signal's number."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self._said["keeper"])
            try:
                if self.living:  # so it is no other process of that number
                    await _readable(handle)
            finally:
                os.close(handle)
        if self._child:
            await asyncio.to_thread(self._child.wait)
        with self._record:
            self._said = _read(self._record)
        # A keeper that was killed has taken its command along, and written nothing.
        return int(self._said.get("code", -signal.SIGKILL))


def anything_lives(vms: Path) -> bool:
    """Whether any VM lives whose records are below ``vms``."""
    lives = map(Life.find, _folders(vms))
    return any(life is not None and life.living for life in lives)


def kill_all(vms: Path) -> None:
    """Kills all VMs whose records are below ``vms``. Blocks until they are gone."""
    for life in map(Life.find, _folders(vms)):
        while life and life.living:
            signal_session(life.command, signal.SIGKILL)
            time.sleep(RECHECK_SECONDS)


def _folders(vms: Path) -> list[Path]:
    return [vms, *vms.glob("*"), *vms.glob("*/*")]


def _records(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name.isdigit() and path.is_file()]


def _read(record: BinaryIO) -> dict[str, Any]:
    """What the keeper has written so far."""
    record.seek(0)
    said: dict[str, Any] = {}
    for line in record.readlines():
        if line.endswith(b"\n"):
            said |= json.loads(line)
    return said


def _held(record: BinaryIO) -> bool:
    try:
        fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(record, fcntl.LOCK_UN)
    return False


async def _readable(handle: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def done() -> None:
        loop.remove_reader(handle)
        ready.set_result(None)

    loop.add_reader(handle, done)
    try:
        await ready
    finally:
        loop.remove_reader(handle)
