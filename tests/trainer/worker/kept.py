"""A keeper as a process, and a test in its agent's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from trainer.protocol.channel import ENV_CONTROL
from trainer.protocol.messages import (
    Abort,
    Alive,
    Exit,
    Form,
    Message,
    Ready,
    Start,
    Started,
    Stopped,
    ToWorker,
    decode,
    encode,
)
from trainer.protocol.session import Program, Session, TorchrunSettings

ROOT = Path(__file__).parents[3]
_Kind = TypeVar("_Kind", bound=Message)


class Kept:
    """A keeper whose script is ``folder/case.py``, or a module.

    Args:
        folder: where the script is; its standard output and error go to files there.
        args: of the script.
        module: what to run in place of the script.
        site: a folder of modules that it finds first.
        variables: of its environment.
        progress: what a step's line looks like.
        preload: what it imports before.
        ready: whether it comes to be ready.
    """

    def __init__(
        self,
        folder: Path,
        args: Sequence[str] = (),
        module: str = "",
        site: Path | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
        progress: str = "",
        preload: Sequence[str] = (),
        ready: bool = True,
    ) -> None:
        self.folder = folder
        self.stdout, self.stderr = folder / "stdout.log", folder / "stderr.log"
        script = "" if module else str(folder / "case.py")
        program = Program(script=script, module=module, args=list(args))
        torchrun = TorchrunSettings(progress=progress, preload=list(preload))
        session = Session(program=program, torchrun=torchrun)
        reads, self._orders = os.pipe()
        messages, writes = os.pipe()
        path = os.pathsep.join(str(one) for one in (site, ROOT) if one)
        with self.stdout.open("a") as stdout, self.stderr.open("a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer.worker"],
                cwd=folder,
                env={
                    **{"PATH": os.environ["PATH"], "PYTHONPATH": path},
                    **variables,
                    **session.to_env(),
                    ENV_CONTROL: f"{reads},{writes}",
                },
                pass_fds=(reads, writes),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        os.close(reads)
        os.close(writes)
        self._messages = os.fdopen(messages, "rb")
        self.generation = 0
        if ready:
            assert self.receive() == Ready()

    def send(self, order: ToWorker) -> None:
        os.write(self._orders, encode(order))

    def receive(self) -> Message:
        """The next message; signs of life are dropped."""
        while True:
            line = self._messages.readline()
            assert line, f"the keeper is gone: {self.stderr.read_text()}"
            message = decode(line)
            if message is not None and not isinstance(message, Alive):
                return message

    def until(self, kind: type[_Kind]) -> _Kind:
        """The next message of this kind; others are dropped."""
        while not isinstance(message := self.receive(), kind):
            pass
        return message

    def beat(self) -> Alive:
        """The next sign of life."""
        while True:
            message = decode(self._messages.readline())
            if isinstance(message, Alive):
                return message

    def start(self, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        """Has the script started in the next generation."""
        self.generation += 1
        self.send(Form(self.generation, {"RANK": "0", "WORLD_SIZE": "1", **variables}, ()))
        self.send(Start(self.generation, "127.0.0.1", 15001))
        self.until(Started)

    def leave(self) -> Stopped:
        """Has the generation broken off, and waits until nothing of it is left."""
        self.send(Abort(self.generation))
        return self.until(Stopped)

    def said(self) -> tuple[str, str]:
        """What has come to standard output and standard error since it was asked last."""
        texts = self.stdout.read_text(), self.stderr.read_text()
        for file in (self.stdout, self.stderr):
            os.truncate(file, 0)
        return texts

    def close_orders(self) -> None:
        """Nobody is there any more to give orders."""
        os.close(self._orders)
        self._orders = -1

    def close(self) -> None:
        """Ends it, and leaves nothing of it."""
        if self._messages.closed:
            return
        if self.process.poll() is None:
            self.send(Exit())
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if self._orders >= 0:
            self.close_orders()
        self._messages.close()
