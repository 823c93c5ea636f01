"""A worker process as its agent holds it: the process, two pipes, and how far it says it is."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from trainer.agent.nursery import Forked, Nursery
from trainer.protocol import messages
from trainer.protocol.channel import ENV_CONTROL
from trainer.protocol.messages import Message, ToWorker, decode, encode

LINE_LIMIT = 64 * 2**20  # bytes of one message; a traceback or a batch of metrics
LEFT_LIMIT = 2**20  # bytes, the most that a pipe holds when its writer has died
MUTE_GRACE = 10.0  # seconds for a process to exit once its end of the pipe is closed

Birth = Callable[[Mapping[str, str], int, int], Awaitable[Process | Forked | None]]

log = logging.getLogger("swell.agent")


class WorkerProcess:
    """One ``trainer.worker`` process, from birth to death.

    Args:
        slot: which of the agent's slots it is for.
        serial: tells the processes of one agent apart.

    Attributes:
        ready: whether it is warm.
        generation: the one it is in, 0 while it waits for one.
        rank: its rank there, or in the last one; -1 before the first.
        step: how many steps it has completed.
        heard: when it was last heard of, in monotonic seconds.
        waiting: whether it waits for its peers, in a collective.
        received: bytes of state that have come while a world begins.
        saving: seconds that its share of a checkpoint would take.
        trained: whether this process has completed a step.
        taking: which samples it is about to take, if it says so.
        ends: whether it is expected to end: it was ordered to, or has said why.
    """

    def __init__(self, slot: int, serial: int) -> None:
        self.slot = slot
        self.serial = serial
        self.ready = False
        self.generation = 0
        self.rank = -1
        self.step = 0
        self.heard = time.monotonic()
        self.waiting = False
        self.received = 0
        self.saving = 0.0
        self.trained = False
        self.taking: messages.Taking | None = None
        self.ends = False
        self._process: Process | Forked | None = None
        self._process_frozen = False  # a keeper's
        self._process_group = 0  # the same
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._burial: asyncio.Task[None] | None = None

    async def start(
        self,
        env: dict[str, str],
        on_message: Callable[[WorkerProcess, Message], Awaitable[None]],
        on_exit: Callable[[WorkerProcess, int], Awaitable[None]],
        nursery: Nursery | None = None,
    ) -> None:
        """Has the nursery fork the process, or spawns it.

        Args:
            env: its environment.
            on_message: called with each message but signs of life, once it is noted here; what is
                wrong with the message it may raise as ValueError or TypeError.
            on_exit: called with its exit code once all its messages were handled.
            nursery: where it comes from, if it can.
        """
        births: list[Birth] = [_started] if nursery is None else [nursery.fork, _started]
        for birth in births:
            worker_reads, agent_writes = os.pipe()
            agent_reads, worker_writes = os.pipe()
            try:
                self._process = await birth(env, worker_reads, worker_writes)
            finally:
                os.close(worker_reads)
                os.close(worker_writes)
                if self._process is None:  # and whoever may have been born after all, ends
                    os.close(agent_reads)
                    os.close(agent_writes)
            if self._process is not None:
                break
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        line, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(agent_reads, "rb")
        )
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(agent_writes, "wb")
        )
        self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        self._listening = loop.create_task(self._listen(reader, on_message, on_exit))
        self._burial = loop.create_task(self._bury(reader, line, agent_reads))

    @property
    def alive(self) -> bool:
        """Whether the process has not exited."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process's id, while it lives."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def computes(self) -> int | None:
        """The process that computes: a keeper's, if it has one, else this; None once it is gone."""
        return self._process_group or self.pid if self.alive else None

    @property
    def frozen(self) -> bool:
        """Whether a signal has stopped the process (or a debugger has), or a keeper's."""
        if self.pid is None:
            return False
        if self._process_frozen:
            return True
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as stat:
                return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
        except OSError:  # it has gone
            return False

    @property
    def idle(self) -> bool:
        """Whether it is warm and waits for a generation."""
        return self.alive and self.ready and self.generation == 0

    def send(self, order: ToWorker) -> None:
        """Sends an order; one to a process that is gone is dropped."""
        if self._writer is not None and self.alive:
            self._writer.write(encode(order))

    def join(self, order: messages.Form, rank: int) -> None:
        """Has it join a generation, in which it has this rank."""
        self.generation, self.rank, self.received = order.generation, rank, 0
        self.send(order)

    def kill(self) -> None:
        """Kills the process, however it hangs."""
        if self._process is not None and self.alive:
            self.ends = True
            with suppress(ProcessLookupError):
                # Its own send_signal would reap one that is dead, before asyncio's watcher does.
                os.kill(self._process.pid, signal.SIGKILL)

    async def close(self, grace: float) -> None:
        """Asks the process to exit, kills it after ``grace`` seconds, and reaps it."""
        if self._process is None:
            return
        if not self.ready:
            self.kill()  # still importing: it holds nothing, and would not hear
        self.ends = True
        self.send(messages.Exit())
        try:
            await asyncio.wait_for(self._process.wait(), grace)
        except asyncio.TimeoutError:
            self.kill()
            await self._process.wait()
        if self._writer is not None:
            self._writer.close()
        if self._burial is not None:
            await self._burial
        if self._listening is not None:
            self._listening.cancel()

    async def _listen(
        self,
        reader: asyncio.StreamReader,
        on_message: Callable[[WorkerProcess, Message], Awaitable[None]],
        on_exit: Callable[[WorkerProcess, int], Awaitable[None]],
    ) -> None:
        assert self._process is not None
        try:
            async for line in reader:
                if not line.endswith(b"\n"):
                    break  # it died in the middle of it
                self.heard = time.monotonic()
                message = decode(line)
                if message is not None:
                    self._note(message)
                    if not isinstance(message, messages.Alive):
                        await on_message(self, message)
        except (ValueError, TypeError) as error:
            # Its program has written into the pipe: nothing more can be told from what comes.
            log.warning("a worker says what no worker says (%r), and is killed", error)
            self.kill()
        try:
            code = await asyncio.wait_for(self._process.wait(), MUTE_GRACE)
        except asyncio.TimeoutError:
            log.warning("a worker has closed its line, and is killed")
            self.kill()
            code = await self._process.wait()
        await on_exit(self, code)

    async def _bury(
        self, reader: asyncio.StreamReader, line: asyncio.ReadTransport, descriptor: int
    ) -> None:
        """Once the process is dead, ends its line and what it has left behind.

        Its end of the pipe does not tell: a child that it has forked may hold that, and much else
        that its successor needs.
        """
        assert self._process is not None
        code = await self._process.wait()
        if code != 0:
            for group in (self._process.pid, self._process_group):
                with suppress(ProcessLookupError, PermissionError, OverflowError):
                    if group > 1:
                        os.killpg(group, signal.SIGKILL)
        if self._writer is not None and self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()  # nobody will read what waits
        if not line.is_closing():
            line.pause_reading()
            with suppress(BlockingIOError):
                left = LEFT_LIMIT  # whoever holds the other end may go on writing
                while left > 0 and (data := os.read(descriptor, left)):
                    reader.feed_data(data)
                    left -= len(data)
            reader.feed_eof()
            line.close()

    def _note(self, message: Message) -> None:
        match message:
            case messages.Alive(waiting, frozen, group):
                self.waiting, self._process_frozen = waiting, frozen
                self._process_group = group
            case messages.Ready():
                self.ready = True
            case messages.Received(_, received):
                self.received = received
            case messages.Started():
                self.step = message.step
            case messages.Progress(_, step, saving):
                self.trained |= step > self.step
                self.step, self.saving = step, saving
            case messages.Taking():
                self.trained |= message.step > self.step
                self.step, self.taking = message.step, message
            case messages.Failed():
                self.ends = True
            case messages.Stopped():
                self.trained |= message.step > self.step
                self.generation, self.step, self.taking = 0, message.step, None


async def _started(env: Mapping[str, str], reads: int, writes: int) -> Process:
    """A new process, for which these are the pipes of its channel."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trainer.worker",
        env={**env, ENV_CONTROL: f"{reads},{writes}"},
        pass_fds=(reads, writes),
        stdin=asyncio.subprocess.DEVNULL,
    )
