"""What an agent finds out about a worker that gets nowhere: its stacks, and whether it computes.

The stacks come from the worker itself (trainer.protocol.stacks); whether its first thread runs, and
what the kernel has it wait for, from /proc. How busy a thread is, is how much of a moment it ran or
wanted to: on a loaded machine a loop without end gets little of a processor, and wants all of it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.agent.slots import Slot
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.stacks import SIGNAL, Thread, name_of, parse, render

MOMENT = 0.3  # seconds for which a thread is watched
ANSWER = 2.0  # seconds for a process to answer; it takes a thousandth of one, if it runs at all
SETTLED = 0.03  # seconds after which an answer that does not grow is whole
LOOK_EVERY = 0.005
TEXT_LIMIT = 16 * 2**10  # characters of one worker's stacks
DUMP_LIMIT = 2**20  # bytes
_OWN = ("/trainer/protocol/channel.py", ("_listen", "tell"))  # the threads of a worker's channel

# What a thread waits for, by the system call that it is in: Linux's tables for x86_64 and aarch64.
_CALLS = {
    "a lock or another thread": ({202}, {98}),
    "a file, a pipe or a socket": (
        {0, 7, 17, 19, 23, 45, 47, 232, 270, 271, 281},
        {22, 63, 65, 67, 72, 73, 207, 212},
    ),
    "time to pass": ({35, 230}, {101, 115}),
    "another process": ({61, 247}, {95, 260}),
    "what it writes to be taken": ({1, 18, 20, 44, 46}, {64, 66, 68, 206, 211}),
}
_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Look:
    """What one process does.

    Attributes:
        threads: its stacks, that of its first thread first; none if it did not answer.
        busy: the part of a moment that its first thread computed, or wanted to; from 0 to 1.
        waits_for: what the kernel has that thread wait for, in words; "" if it does not wait, or
            nobody can tell.
    """

    threads: tuple[Thread, ...] = ()
    busy: float = 0.0
    waits_for: str = ""

    @property
    def text(self) -> str:
        """The stacks, within TEXT_LIMIT."""
        text = render(self.threads)
        if len(text) <= TEXT_LIMIT:
            return text
        return text[:TEXT_LIMIT].rpartition("\n")[0]


def look_at(pid: int) -> Look:
    """Finds out what the process does. It takes a moment, and more if it does not answer."""
    began, ran = time.monotonic(), _wanted(pid)
    threads = dump(pid)
    time.sleep(max(0.0, began + MOMENT - time.monotonic()))
    busy = (_wanted(pid) - ran) / (time.monotonic() - began)
    return Look(tuple(threads), min(max(busy, 0.0), 1.0), _waits_for(pid))


def dump(pid: int) -> list[Thread]:
    """The stacks of a process, that of its first thread first; none if it offers none."""
    file = _offered_by(pid)
    if file is None or not _listens(pid):
        return []
    try:
        os.ftruncate(file, 0)
        os.kill(pid, SIGNAL)
        data = _whole(file)
    except OSError:  # it has gone
        return []
    finally:
        os.close(file)
    threads = parse(data.decode("utf-8", "replace"))
    return [one for one in reversed(threads) if not _is_channel(one)]


def stacks_of(number: int, generation: int, slots: Sequence[Slot], ended: set[int]) -> pb.Stacks:
    """What the workers in the slots do, for a coordinator that has asked. It takes a moment.

    Args:
        number: of the question.
        generation: what it asks about.
        slots: all of the agent's.
        ended: those in which the script has ended well.
    """
    with ThreadPoolExecutor(max(1, len(slots))) as at_once:
        stacks = at_once.map(lambda it: _stack(it, generation, it.index in ended), slots)
    return pb.Stacks(number=number, generation=generation, stacks=stacks)


def _stack(slot: Slot, generation: int, ended: bool) -> pb.Stack:
    worker = slot.active
    told = pb.Stack(rank=worker.rank, ended=ended)
    if ended:
        return told
    told.missing = _missing(worker, generation)
    pid = worker.computes
    if told.missing or pid is None:
        return told
    look = look_at(pid)
    told.text, told.busy, told.waits_for = look.text, look.busy, look.waits_for
    told.collective = worker.waiting
    if not told.text:
        told.missing = "its process does not answer"
    return told


def _missing(worker: WorkerProcess, generation: int) -> str:
    """Why a worker has no stack that tells anything; "" if it may have one."""
    if worker.computes is None:
        return "its process has ended"
    if worker.generation != generation:
        return "it is not in this world any more"
    return "a signal has stopped its process" if worker.frozen else ""


def _offered_by(pid: int) -> int | None:
    """A descriptor of the file that the process answers into; None if there is none."""
    folder = Path(f"/proc/{pid}/fd")
    with suppress(OSError):
        for one in folder.iterdir():
            with suppress(OSError):
                if os.readlink(one).startswith(f"/memfd:{name_of(pid)} "):
                    return os.open(one, os.O_RDWR | os.O_CLOEXEC)
    return None


def _listens(pid: int) -> bool:
    """Whether the signal has a handler: else it would end the process."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (SIGNAL - 1) & 1)
    return False


def _whole(file: int) -> bytes:
    """What is written into the file, once it grows no more."""
    size, since = 0, time.monotonic()
    deadline = since + ANSWER
    while (now := time.monotonic()) < deadline and not (size and now - since > SETTLED):
        time.sleep(LOOK_EVERY)
        if (newest := os.fstat(file).st_size) != size:
            size, since = newest, time.monotonic()
    return os.pread(file, DUMP_LIMIT, 0)


def _is_channel(thread: Thread) -> bool:
    file, functions = _OWN
    return any(one.file.endswith(file) and one.function in functions for one in thread)


def _wanted(pid: int) -> float:
    """Seconds for which the first thread of the process has run, or waited for a processor."""
    with suppress(OSError, ValueError, IndexError):
        ran, waited = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[:2]
        return (int(ran) + int(waited)) / 1e9
    with suppress(OSError, ValueError, IndexError):  # a kernel without statistics of its scheduler
        stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _waits_for(pid: int) -> str:
    with suppress(OSError, ValueError, IndexError):
        number = int(Path(f"/proc/{pid}/task/{pid}/syscall").read_text().split()[0])
        return call_in_words(number, platform.machine())
    return ""


def call_in_words(number: int, machine: str) -> str:
    """What a thread waits for that is in this system call; "" for one that is not known here."""
    if machine not in _MACHINES:
        return ""
    of = _MACHINES.index(machine)
    return next((what for what, numbers in _CALLS.items() if number in numbers[of]), "")
