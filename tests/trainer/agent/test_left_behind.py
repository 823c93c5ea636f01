"""What a dead worker has left behind: its end is told, whoever holds its line; and what goes too.

A worker's end of the pipe does not tell that it is dead: a process that it has started, or handed
the pipe to, may have it as well.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.agent.held import Held, given
from tests.trainer.ranks import PATIENCE
from trainer.agent.nursery import Nursery
from trainer.protocol.messages import Event, Form, Ready, Start
from trainer.protocol.session import Program, Session, TorchrunSettings

# What a worker (conftest's echo) does first. Each says which process has its line from then on.
FORKED = """
child = os.fork()
if not child:
    time.sleep(600)
say("event", name="held", fields={"by": child})
"""
# Without the handlers of Python, as a library in C forks.
FORKED_IN_C = FORKED.replace("os.fork()", "__import__('ctypes').CDLL(None).fork()")
WITH_A_SESSION = FORKED.replace("time.sleep", "os.setsid(); time.sleep")
# It writes only once its parent has said its own: what is between the two would be its fault.
NOISY = "turn = os.pipe()\n" + FORKED.replace(
    "time.sleep(600)",
    "os.setsid(); os.read(turn[0], 1)\n    while True: os.write(writes, b'x' * 99)",
)
NOISY += "os.write(turn[1], b'.')\n"
# As a service puts itself into the background: nobody's child in the end.
DAEMON = """
told = os.pipe()
if not (between := os.fork()):
    os.setsid()
    if daemon := os.fork():
        os.write(told[1], str(daemon).encode())
        os._exit(0)
    time.sleep(600)
os.waitpid(between, 0)
say("event", name="held", fields={"by": int(os.read(told[0], 99))})
"""
# It does nothing any more, not even end.
STOPPED = WITH_A_SESSION.replace("time.sleep(600)", "os.kill(os.getpid(), 19)").replace(
    "say(", "os.waitpid(child, os.WUNTRACED); say("
)
# Another program, to which all was passed on.
EXECUTED = """
import subprocess
child = subprocess.Popen(["sleep", "600"], pass_fds=(reads, writes), start_new_session=True)
say("event", name="held", fields={"by": child.pid})
"""
# On its way to somebody who does not take it: no process has it.
HANDED_OVER = """
import socket
there = socket.socket(socket.AF_UNIX)
there.connect(os.environ["THERE"])
socket.send_fds(there, [b"."], [reads, writes])
say("event", name="held", fields={"by": 0})
"""
HOLDERS = {
    "forked": FORKED,
    "forked in C": FORKED_IN_C,
    "with a session": WITH_A_SESSION,
    "noisy": NOISY,
    "daemon": DAEMON,
    "stopped": STOPPED,
    "executed": EXECUTED,
    "handed over": HANDED_OVER,
}


def run(test: Coroutine[Any, Any, None]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(test)
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"


async def holder(held: Held) -> int:
    """Who has the worker's line beside itself."""
    said = await held.receive()
    assert isinstance(said, Event)
    return int(said.fields["by"])


def end(process: int) -> None:
    if process:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("first", HOLDERS.values(), ids=HOLDERS)
def test_a_dead_one_is_told_though_its_line_is_held(
    echo: dict[str, str], first: str, tmp_path: Path
) -> None:
    async def body() -> None:
        held = Held()
        await held.start({**echo, "FIRST": first, "THERE": str(tmp_path / "there")})
        by = await holder(held)
        try:
            held.worker.kill()
            assert await held.ended() == -signal.SIGKILL
            await held.worker.close(PATIENCE)
        finally:
            end(by)

    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(tmp_path / "there"))
        there.listen()
        run(body())


def test_what_it_said_last_is_heard_though_a_child_holds_its_line(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        last = "\nfor n in range(500): say('event', name='last', fields={'n': n})\nos._exit(3)"
        await held.start({**echo, "FIRST": WITH_A_SESSION + last})
        by = await holder(held)
        try:
            assert await held.ended() == 3
            said = [held.messages.get_nowait() for _ in range(held.messages.qsize())]
            assert [one.fields["n"] for one in said if isinstance(one, Event)] == [*range(500)]
            await held.worker.close(PATIENCE)
        finally:
            end(by)

    run(body())


def test_what_it_was_still_to_be_told_goes_with_it_though_its_line_is_held(
    echo: dict[str, str],
) -> None:
    """It has read nothing for long, so that orders wait; nobody will ever read them."""

    async def body() -> None:
        held = Held()
        await held.start({**echo, "FIRST": WITH_A_SESSION + "\ntime.sleep(600)"})
        by = await holder(held)
        before = {*os.listdir("/proc/self/fd")}
        try:
            for _ in range(100):
                held.worker.send(Form(1, {"KEY": "x" * 10_000}, ()))
            held.worker.kill()
            assert await held.ended() == -signal.SIGKILL
            await held.worker.close(PATIENCE)
            await asyncio.sleep(0)  # closed when the loop has its turn
            assert len({*os.listdir("/proc/self/fd")}) == len(before) - 2, "both of its pipes"
        finally:
            end(by)

    run(body())


async def ends(process: int) -> bool:
    """Whether a process comes to its end, whoever's it is."""
    handle = os.pidfd_open(process)
    try:
        over, *_ = await asyncio.to_thread(select.select, [handle], [], [], PATIENCE)
        return bool(over)
    finally:
        os.close(handle)


async def killed(held: Held, helper: int) -> tuple[int, bool]:
    """Kills a worker. Returns its exit code, and whether its helper has ended, too."""
    over = asyncio.create_task(ends(helper))
    await asyncio.sleep(0)  # it waits before there is anything to wait for
    held.worker.kill()
    code, helped = await held.ended(), await over
    await held.worker.close(PATIENCE)
    return code, helped


def test_what_a_dead_one_leaves_behind_goes_with_it(echo: dict[str, str]) -> None:
    """Its children may hold what its successor needs: a GPU, a port."""

    async def body() -> None:
        held = Held()
        await held.start({**echo, "FIRST": f"os.setpgid(0, 0)\n{FORKED}"})
        by = await holder(held)
        assert await killed(held, by) == (-signal.SIGKILL, True)

    asyncio.run(body())


# --- real workers: of a task, of an own loop, and of a torchrun script ----------------------

# A daemon of the program's, started as a library in C would, which closes nothing.
HOLDS = """
import ctypes, os, sys, time
fork = ctypes.PyDLL(None).fork
switches = sys.getswitchinterval()
sys.setswitchinterval(600)  # a child that is to give way to another thread, and has none, hangs
time.sleep(0.1)  # who waited for its turn before waits as long as that from now on
if not fork():
    os.setsid()
    if fork():
        os._exit(0)
    with open("{noted}.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename("{noted}.part", "{noted}")
    time.sleep(600)
sys.setswitchinterval(switches)
"""
# It leaves a child in the group of the process that runs the script.
HELPED = """
import os, subprocess, time
helper = subprocess.Popen(["sleep", "600"])
with open("{noted}.part", "w") as file:
    file.write(str(helper.pid))
os.rename("{noted}.part", "{noted}")
"""
LOADS = """
import os
from torch.utils.data import DataLoader
batches = iter(DataLoader(range(64), num_workers=1, multiprocessing_context="fork"))
with open("{noted}.part", "w") as file:
    file.write(str(batches._workers[0].pid))
os.rename("{noted}.part", "{noted}")
"""
TASK = "from tests.trainer.test_loop import Line\n"
LOOP = """
import torch
from trainer import elastic
model = torch.nn.Linear(4, 1)
state = elastic.State(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
for step in elastic.steps(state, elastic.batches(64, 8), epochs=1):
    raise AssertionError("there is no world to train in")
"""
SCRIPT = "time.sleep(600)\n"


def session(kind: str, folder: Path, first: str) -> tuple[Session, Path]:
    """A worker whose program does this first; and the file that then names the other process."""
    noted, program = folder / "noted", folder / "program.py"
    text = {"task": TASK, "loop": LOOP, "torchrun": SCRIPT}[kind]
    program.write_text(first.format(noted=noted) + text)
    if kind == "task":
        return Session(program=Program(task=f"{program}:Line")), noted
    torchrun = TorchrunSettings() if kind == "torchrun" else None
    return Session(program=Program(script=str(program)), torchrun=torchrun), noted


async def begun(held: Held, of: Session, noted: Path) -> int:
    """Waits until the program has done what it does first. Returns the process that is noted."""
    assert await held.receive() == Ready()
    if of.torchrun is not None:
        held.worker.join(Form(1, {"RANK": "0", "WORLD_SIZE": "1"}, ()), rank=0)
        held.worker.send(Start(1, "127.0.0.1", 15001))
    while not noted.exists():
        await asyncio.sleep(0.01)
    return int(noted.read_text())


def pipes(process: int | str) -> set[str]:
    """The pipes that a process has."""
    found = set()
    for descriptor in os.listdir(f"/proc/{process}/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{process}/fd/{descriptor}"))
    return {one for one in found if one.startswith("pipe:")}


@pytest.mark.parametrize("kind", ["task", "loop", "torchrun"])
def test_the_end_of_a_worker_of_any_kind_is_told_whatever_its_program_leaves(
    tmp_path: Path, kind: str
) -> None:
    async def body(line: socket.socket) -> None:
        nursery, held = Nursery(line), Held()
        of, noted = session(kind, tmp_path, HOLDS)
        before = pipes("self")
        await held.start({**os.environ, **of.to_env()}, nursery)
        daemon = await begun(held, of, noted)
        try:
            shared = pipes("self") - before & pipes(daemon)
            # A script's process has none of its keeper's: what it starts can hold none.
            assert len(shared) == (0 if kind == "torchrun" else 2)
            held.worker.kill()
            assert await held.ended() == -signal.SIGKILL
            await held.worker.close(PATIENCE)
            assert pipes(daemon), "it has lived on"
        finally:
            end(daemon)
        await nursery.close()

    with given() as (line, _):
        asyncio.run(body(line))


@pytest.mark.parametrize("kind, first", [("loop", LOADS), ("task", LOADS), ("torchrun", HELPED)])
def test_what_helps_a_killed_worker_goes_with_it(tmp_path: Path, kind: str, first: str) -> None:
    """Loaders, and whatever else a program starts beside itself."""

    async def body(line: socket.socket) -> None:
        nursery, held = Nursery(line), Held()
        of, noted = session(kind, tmp_path, first)
        await held.start({**os.environ, **of.to_env()}, nursery)
        helper = await begun(held, of, noted)
        heard = held.worker.heard
        while held.worker.heard == heard:  # of a keeper: that there is a process
            await asyncio.sleep(0.01)
        assert await killed(held, helper) == (-signal.SIGKILL, True)
        await nursery.close()

    with given() as (line, _):
        asyncio.run(body(line))


def test_nobody_but_a_worker_itself_has_its_line(tmp_path: Path) -> None:
    """Neither the nursery nor those that it forks afterwards."""

    async def body(line: socket.socket, nursery_process: int) -> None:
        nursery, before = Nursery(line), pipes("self")
        of = Session(program=Program("tests.trainer.test_loop:Line"))
        workers = [Held(), Held()]
        lines = []
        for held in workers:
            await held.start({**os.environ, **of.to_env()}, nursery)
            assert await held.receive() == Ready()
            lines.append(pipes("self") - before)
            before |= lines[-1]
        pids = [held.worker.pid or 0 for held in workers]
        assert [len(lines[0] & pipes(one)) for one in pids] == [2, 0]
        assert [len(lines[1] & pipes(one)) for one in pids] == [0, 2]
        assert not (lines[0] | lines[1]) & pipes(nursery_process)
        for held in workers:
            held.worker.kill()
            assert await held.ended() == -signal.SIGKILL
            await held.worker.close(PATIENCE)
        await nursery.close()

    with given() as (line, process):
        asyncio.run(body(line, process.pid))
