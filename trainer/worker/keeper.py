"""A keeper: the worker of a torchrun script, which has a process run it anew in each generation.

What it does when is decided in trainer.worker.keeping. A keeper has one thread, so that it can be
forked: its process is warm in hundredths of a second, whatever was imported before. A keeper that
has more all the same, because something that it has imported has started one, starts its processes
afresh.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.protocol import messages
from trainer.protocol.channel import ALIVE_EVERY, ENV_CONTROL
from trainer.protocol.ends import end_of
from trainer.protocol.messages import Alive, Failed, FromWorker, Ready, ToWorker, decode, encode
from trainer.protocol.session import Session
from trainer.reporting import ENV_REPORT
from trainer.rundir.names import ENV_OUTPUT_DIR
from trainer.rundir.untrusted import parse_json
from trainer.rundir.usererror import Message
from trainer.worker import launched, process_group
from trainer.worker.event_files import PROTO, TENSORBOARD, EventFiles
from trainer.worker.keeping import Action, Keeping, Kill, Leave, Phase, Spawn, Terminate
from trainer.worker.nursery import can_be_forked
from trainer.worker.process import die_with_parent
from trainer.worker.reports import Lines, Pattern, parse_report
from trainer.worker.script import enter_code

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
LOOK_EVERY = 0.05  # seconds, while something is to end
REASON_LIMIT = 32 * 1024  # characters of a traceback that are passed on
ERROR_FILE_LIMIT = 2**20  # bytes


@dataclass
class Source:
    """A pipe from the process.

    Attributes:
        copies_to: the descriptor that what comes is for; 0 for none: they are reports.
        lines: those that it consists of.
    """

    copies_to: int
    lines: Lines = field(default_factory=Lines)


class Keeper:
    """Keeps one slot's process.

    Args:
        reads, writes: the descriptors of the channel to the agent.
        fork: whether processes are forked of this one.
        progress: see trainer.worker.reports.Pattern; or TENSORBOARD, for event files.
    """

    def __init__(self, reads: int, writes: int, *, fork: bool, progress: str = "") -> None:
        for one in (reads, writes):
            os.set_inheritable(one, False)
        self._reads, self._writes = reads, writes
        self._fork = fork
        self._keeping = Keeping()
        # Beside the script's output, if it has one: whoever clears that away, clears this.
        output = os.environ.get(ENV_OUTPUT_DIR)
        beside = str(Path(output).parent) if output else None
        self._folder = tempfile.mkdtemp(prefix="swell-keeper-", dir=beside)
        self._partial = b""
        by_tensorboard = progress == TENSORBOARD
        self._pattern = Pattern("" if by_tensorboard else progress)
        self._event_files = EventFiles(Path(output)) if by_tensorboard and output else None
        self._sources: dict[int, Source] = {}  # by descriptor: what the process says
        self._process: int | None = None  # the script's, while it lives
        self._group = 0  # that it leads, until nothing of it is left
        self._frozen = False
        self._variables: dict[str, str] = {}
        self._born: dict[str, str] | None = None
        self._over = False
        self._alive_at = 0.0

    def keep(self) -> dict[str, str] | None:
        """Does what the agent says until the keeper's life is over.

        Returns None then; in each process that it has forked, the variables of its generation.
        """
        # Whatever the script leaves behind becomes a child of this process, and is found.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        wakes, wake = os.pipe()
        for one in (wakes, wake, self._reads):
            os.set_blocking(one, False)
        signal.signal(signal.SIGCHLD, _wake_up)
        signal.set_wakeup_fd(wake)
        self._say(Ready())
        try:
            while not self._over and self._born is None:
                busy = self._keeping.phase is Phase.ENDING
                pause = LOOK_EVERY if busy else ALIVE_EVERY
                select.select([self._reads, wakes, *self._sources], [], [], pause)
                with suppress(BlockingIOError):
                    os.read(wakes, 4096)
                self._look()
        except BrokenPipeError:
            self._kill()  # the agent is gone
        signal.set_wakeup_fd(-1)
        for one in (wakes, wake, self._reads, self._writes):
            os.close(one)
        if self._born is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._born

    def _look(self) -> None:
        now = time.monotonic()
        for order in self._orders():
            self._do(self._keeping.take(order, now, frozen=self._frozen))
            if self._born is not None:
                return
        self._listen()
        nothing_left = self._reap(now)
        self._do(self._keeping.tick(now))
        if nothing_left:
            self._group = 0
            self._close_sources()
            self._do(self._keeping.gone())
        if now - self._alive_at >= ALIVE_EVERY:
            self._alive_at = now
            self._say(Alive(self._keeping.waiting, self._frozen, self._group))

    # --- the agent --------------------------------------------------------------------

    def _orders(self) -> list[ToWorker]:
        try:
            data = os.read(self._reads, 2**16)
        except BlockingIOError:
            return []
        if not data:
            raise BrokenPipeError
        *lines, self._partial = (self._partial + data).split(b"\n")
        orders: list[messages.Message | None] = [decode(line) for line in lines]
        return [order for order in orders if isinstance(order, ToWorker)]

    def _say(self, message: FromWorker) -> None:
        line = encode(message)
        while line:
            line = line[os.write(self._writes, line) :]

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Spawn(variables):
                    self._spawn(variables)
                    if self._born is not None:
                        return
                case Terminate():
                    self._terminate()
                case Kill():
                    self._kill()
                case Leave():
                    self._over = True
                case _:
                    self._say(action)

    # --- the process ------------------------------------------------------------------

    @property
    def _error_file(self) -> Path:
        return Path(self._folder, "error.json")

    def _spawn(self, variables: dict[str, str]) -> None:
        self._error_file.unlink(missing_ok=True)
        variables = {**variables, launched.ENV_ERROR_FILE: str(self._error_file)}
        self._frozen = False
        sys.stdout.flush()
        sys.stderr.flush()
        ends = self._open_sources() if self._keeping.reports else {}
        if self._event_files:
            self._event_files.begin()
        keeper = os.getpid()
        self._process = os.fork()
        if self._process:
            self._group, self._alive_at = self._process, 0.0
            for end in ends.values():
                os.close(end)
            return
        die_with_parent(keeper)
        for source in self._sources:
            os.close(source)
        for descriptor, end in ends.items():
            if descriptor:
                os.dup2(end, descriptor)
                os.close(end)
            else:
                os.set_inheritable(end, True)
                variables[ENV_REPORT] = str(end)
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(variables)
        if not self._fork:
            command = [sys.executable, "-u", "-m", "trainer.worker.launched"]
            os.execve(sys.executable, command, os.environ)
        self._born = variables

    def _open_sources(self) -> dict[int, int]:
        """Opens pipes for the process: for its reports (0), and for its output if that is read.

        Returns the process's ends of them.
        """
        ends = {}
        for descriptor in (0, 1, 2) if self._pattern.given else (0,):
            here, there = os.pipe()
            os.set_blocking(here, False)
            self._sources[here] = Source(descriptor)
            ends[descriptor] = there
        return ends

    def _listen(self) -> None:
        """Passes on what the process has written, and takes in what it says of its steps."""
        for here, source in list(self._sources.items()):
            while data := _read(here):
                if source.copies_to:
                    _write_all(source.copies_to, data)
                for line in source.lines.cut(data):
                    alone = (process_group.NO_GROUP, process_group.UNUSED)
                    if not source.copies_to and line in alone:
                        grouped = line == process_group.UNUSED
                        self._do(self._keeping.trains_by_itself(grouped=grouped))
                        continue
                    report = self._pattern.find(line) if source.copies_to else parse_report(line)
                    if report is not None:
                        self._do(self._keeping.progressed(report.step, report.metrics))
            if data == b"":
                os.close(here)
                del self._sources[here]
        if self._event_files and self._keeping.reports and self._process is not None:
            for report in self._event_files.read():
                self._do(self._keeping.progressed(report.step, report.metrics))

    def _close_sources(self) -> None:
        """Nobody is left to say anything: who was handed a pipe does not speak for the next one."""
        self._listen()
        for here in self._sources:
            os.close(here)
        self._sources.clear()

    def _terminate(self) -> None:
        asked = self._descendants() if self._process is None else [self._process]
        for one in asked:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGTERM)

    def _kill(self) -> None:
        for one in self._descendants():
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def _descendants(self) -> list[int]:
        import psutil

        return [one.pid for one in psutil.Process().children(recursive=True)]

    def _reap(self, now: float) -> bool:
        """Takes note of all that has ended. Returns whether nothing is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return True
            if not pid:
                return False
            if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                if pid == self._process:
                    self._frozen = os.WIFSTOPPED(status)
            elif pid == self._process:
                self._listen()  # its last words first
                self._process, self._frozen = None, False
                code = os.waitstatus_to_exitcode(status)
                self._do(self._keeping.exited(code, self._reason(code), now))

    def _reason(self, code: int) -> str:
        """Why the process has failed: its traceback, if it left one."""
        told = _traceback_in(self._error_file) if code else ""
        if not told:
            told = end_of(code)
        return told[-REASON_LIMIT:]


def main(session: Session) -> int:
    """The worker of a torchrun script, and each process that is forked of it.

    Returns its exit code; of a process, that of the script.
    """
    control = os.environ.pop(ENV_CONTROL, None)
    if control is None:
        print("trainer.worker is started by an agent (swell-agent)", file=sys.stderr)
        return 2
    reads, writes = (int(one) for one in control.split(","))
    if session.code:
        enter_code(session.code.folder, session.code.installed)
    assert session.torchrun is not None
    wanted = [("preload", module) for module in session.torchrun.preload]
    if session.torchrun.progress == TENSORBOARD:
        wanted.append(("progress", PROTO))
    for field_name, module in wanted:
        try:
            importlib.import_module(module)
        except BaseException as error:  # it may call sys.exit()
            what = f"torchrun.{field_name}: {module} cannot be imported: {error!r}"
            os.write(writes, encode(Failed(str(Message("SW5022", what)))))
            return 1
    keeper = Keeper(reads, writes, fork=can_be_forked(), progress=session.torchrun.progress)
    born = keeper.keep()
    return 0 if born is None else launched.run(session.program)


def _read(descriptor: int) -> bytes | None:
    """What can be read; None if nothing can be now, nothing at the end."""
    try:
        return os.read(descriptor, 2**16)
    except BlockingIOError:
        return None


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _traceback_in(file: Path) -> str:
    """What a script has left in its error file, in the forms that `record` has for it."""
    try:
        with file.open("rb") as opened:
            message: Any = parse_json(opened.read(ERROR_FILE_LIMIT))["message"]
        if isinstance(message, str):
            return message
        extra = message.get("extraInfo", {})
        return str(extra.get("py_callstack") or message.get("message", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _wake_up(number: int, frame: FrameType | None) -> None:
    """SIGCHLD only has to wake the loop up."""
