"""The nursery: a process that has imported everything once, and of which workers are forked.

A worker that is forked is warm in tenths of a second, where one that is started takes seconds of
the processors, and it shares the memory of all that was imported. It is the agent's child, as if
the agent had started it: with an environment and random numbers of its own, and without anything
that the nursery had open.

Only a process that has nothing running can be forked: no thread, and no GPU. What cannot be is no
nursery, and ends; the agent then starts its workers one by one.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module

from trainer.protocol.channel import ENV_CONTROL
from trainer.protocol.nursery import ENV_MODULES, ENV_NURSERY, NURSERY, asked
from trainer.worker.process import die_with_parent, name_process

# What a worker imports before it says that it is ready.
MODULES = (
    "trainer.loop",
    "trainer.elastic",
    "trainer.worker.horovod_hooks",
    "trainer.worker.loading",
    "trainer.worker.script",
    "torch._dynamo",  # by torch, at a process's first optimizer step
)
ADOPTION_CHECK = 0.001  # seconds


def inherited() -> socket.socket | None:
    """The socket that an agent left in the environment of its nursery, or None in a worker."""
    number = os.environ.pop(ENV_NURSERY, None)
    return None if number is None else socket.socket(fileno=int(number))


def serve(agent: socket.socket) -> None:
    """Forks workers for as long as the agent asks. Returns in each of them, and nowhere else."""
    die_with_parent()
    name_process(NURSERY)
    # What is meant for the agent, and for the workers to ignore.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # what is imported stays: to look for garbage in it takes a sixth of the time
    try:
        for module in modules_of(os.environ.pop(ENV_MODULES, None)):
            import_module(module)
    except BaseException:  # a worker that is started will say what is wrong
        os._exit(1)
    if not can_be_forked():
        os._exit(1)
    # Else the first collection of a worker would write to all that is shared. None before: to find
    # the little that the imports leave behind takes a tenth of their time, and makes holes.
    gc.freeze()
    gc.enable()
    with suppress(OSError):
        agent.send(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})).encode())
        while _asked(agent):
            pass
        return
    os._exit(1)


def modules_of(given: str | None) -> list[str]:
    """What a nursery imports: most workers' modules, or those that are given, as a JSON list."""
    return [*MODULES] if given is None else list(json.loads(given))


def _asked(agent: socket.socket) -> bool:
    """Forks a worker when asked. Returns whether this is the nursery still; ends with the agent."""
    descriptors = asked(agent)
    if descriptors is None:
        os._exit(0)
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        for one in descriptors:
            os.close(one)
        return True
    between = os.getpid()
    if os.fork():
        os._exit(0)  # whose parent is gone becomes the agent's child
    while os.getppid() == between:
        time.sleep(ADOPTION_CHECK)
    _be_born(*descriptors)
    with agent:
        agent.send(str(os.getpid()).encode())
    return False


def _be_born(environment: int, reads: int, writes: int) -> None:
    """Makes this process one of its own."""
    import numpy

    os.lseek(environment, 0, os.SEEK_SET)
    with os.fdopen(environment, encoding="utf-8") as file:
        variables: dict[str, str] = json.load(file)
    os.environ.update(variables)  # beside what was set by what has been imported
    os.environ[ENV_CONTROL] = f"{reads},{writes}"
    numpy.random.seed()  # random does so by itself; torch begins with the same seed everywhere


def can_be_forked() -> bool:
    """Whether nothing runs in this process that a fork of it would lack."""
    if not (first := os.fork()):
        os._exit(0)
    os.waitpid(first, 0)  # threads that know of forks, such as OpenBLAS's, have ended for it
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return len(os.listdir("/proc/self/task")) == 1 and not any(
        path.startswith("/dev/nvidia") for path in opened
    )
