"""Workers that are forked: processes of their own in every respect, and children of their agent."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.trainer.agent.held import Held, given
from tests.trainer.ranks import FORKS, PATIENCE, Process, alone
from trainer.agent.nursery import Nursery, given_nursery
from trainer.agent.settings import Settings
from trainer.protocol.messages import Failed, Ready
from trainer.protocol.nursery import ENV_NURSERY, KEEPERS_MODULES, NURSERY, WORKER
from trainer.protocol.session import CodeSettings, Program, Session, TorchrunSettings
from trainer.worker import nursery as worker_nursery

# What it finds goes to a file; then it fails, as a script that trains nothing does.
ABOUT = """
import json, os, random, signal, sys
import numpy, torch
fds = [f"/proc/self/fd/{one}" for one in os.listdir("/proc/self/fd")]
opened = [os.readlink(one) for one in fds if os.path.lexists(one)]
open(os.environ["ABOUT"], "w").write(json.dumps({
    "environ": dict(os.environ),
    "cwd": os.getcwd(),
    "argv": sys.argv,
    "name": __name__,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "parent": os.getppid(),
    "session": os.getsid(0),
    "random": [random.random(), numpy.random.random()],
    "ignored": [signal.getsignal(number) is signal.SIG_IGN for number in (2, 15)],
    "opened": sorted(one.partition(":")[0] for one in opened),
    "threads": torch.get_num_threads(),
}))
"""


def run(test: Coroutine[Any, Any, None]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(test)
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"


async def about(held: Held, nursery: Nursery | None, folder: Path, number: int) -> dict[str, Any]:
    """What a script finds in a new worker."""
    script = folder / "about.py"
    script.write_text(ABOUT)
    told = folder / f"about-{number}.json"
    session = Session(program=Program(script=str(script), args=["--fast"]))
    await held.start({**os.environ, "ABOUT": str(told), **session.to_env()}, nursery)
    message = await held.receive()
    assert isinstance(message, Failed) and "it trained nothing together" in message.reason
    assert await held.ended() == 1
    await held.worker.close(PATIENCE)
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def test_one_that_is_forked_finds_what_one_that_is_started_finds(tmp_path: Path) -> None:
    async def body() -> None:
        nursery = Nursery(None)
        await nursery.start(dict(os.environ))
        forked = [await about(Held(), nursery, tmp_path, number) for number in (0, 1)]
        await nursery.close()
        started = await about(Held(), None, tmp_path, 2)
        assert forked[0].pop("random") != forked[1].pop("random") != started.pop("random")
        for one in (*forked, started):
            del one["environ"]["ABOUT"]
            # torch sets it when it imports torch._dynamo: in a started worker at the first step.
            one["environ"].pop("TORCHINDUCTOR_CACHE_DIR", None)
            assert one["parent"] == os.getpid(), "it is a child of its agent's own"
            assert one["main"] and one["name"] == "__main__"
        assert forked == [started] * 2

    run(body())


def test_it_lives_and_dies_as_its_agents_child() -> None:
    async def body(line: socket.socket) -> None:
        nursery = Nursery(line)
        session = Session(program=Program("tests.trainer.test_loop:Line"))
        one, other = Held(), Held()
        for held in (one, other):
            await held.start({**os.environ, **session.to_env()}, nursery)
            assert await held.receive() == Ready()
        assert one.worker.pid and other.worker.pid
        process = psutil.Process(one.worker.pid)
        assert (process.ppid(), process.name()) == (os.getpid(), WORKER)
        one.worker.kill()
        assert await one.ended() == -signal.SIGKILL
        await nursery.close()  # whom it has brought up lives on
        assert other.worker.alive
        await other.worker.close(PATIENCE)
        assert await other.ended() == 0
        await one.worker.close(PATIENCE)

    with given() as (line, _):
        asyncio.run(body(line))


def test_when_the_nursery_is_gone_workers_are_started(echo: dict[str, str]) -> None:
    async def body(line: socket.socket, process: Process) -> None:
        nursery = Nursery(line)
        process.kill()
        for _ in range(2):
            held = Held()
            await held.start(echo, nursery)
            assert await held.receive() == Ready()
            await held.worker.close(PATIENCE)
        await nursery.close()

    with given() as (line, process):
        asyncio.run(body(line, process))


def test_a_nursery_that_cannot_import_what_it_must_is_none(echo: dict[str, str]) -> None:
    async def body() -> None:
        nursery = Nursery(None)
        await nursery.start(echo)  # the echo knows nothing of nurseries
        held = Held()
        await held.start(echo, nursery)
        assert await held.receive() == Ready()
        await held.worker.close(PATIENCE)
        await nursery.close()

    run(body())


@pytest.mark.parametrize("where", ["code", "script"])
def test_a_run_that_has_a_module_of_the_same_name_has_its_workers_started(
    echo: dict[str, str], tmp_path: Path, where: str
) -> None:
    folder = tmp_path / "project"
    (folder / "numpy").mkdir(parents=True)
    code, program = None, Program(script=str(folder / "train.py"))
    if where == "code":
        code, program = CodeSettings("0" * 64, 0, folder=str(folder)), Program(module="train")
    settings = Settings(program=program, code=code)

    async def body(line: socket.socket) -> None:
        nursery = Nursery.of_run(settings, line)
        assert nursery is not None
        held = Held()
        await held.start(echo, nursery)
        assert await held.receive() == Ready(), "the echo was started"
        await held.worker.close(PATIENCE)
        await nursery.close()

    with given() as (line, _):
        asyncio.run(body(line))


def test_a_run_that_requires_packages_has_no_nursery() -> None:
    program = Program(module="train")
    code = CodeSettings("0" * 64, 0, requirements="requirements.txt", installed="/packages")
    assert Nursery.of_run(Settings(program=program, code=code), None) is None
    assert Nursery.of_run(Settings(program=program), None) is not None


def test_that_of_a_torchrun_script_imports_torch_and_what_the_job_preloads(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    settings = Settings(
        Program(script=str(tmp_path / "train.py")),
        torchrun=TorchrunSettings(preload=["json.tool", "mine"]),
    )
    nursery = Nursery.of_run(settings, None)
    assert nursery is not None
    assert nursery._modules == [*KEEPERS_MODULES, "json.tool"], "its own, a keeper imports itself"
    assert worker_nursery.modules_of(json.dumps(nursery._modules)) == nursery._modules
    assert worker_nursery.modules_of(None) == [*worker_nursery.MODULES]


def test_what_was_given_is_not_passed_on() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = {ENV_NURSERY: str(ours.detach()), "PATH": "/bin"}
    line = given_nursery(environ)
    assert line is not None and not line.get_inheritable()
    assert environ == {"PATH": "/bin"}
    assert given_nursery(environ) is None
    line.close()
    theirs.close()


def can_be_forked_beside_a_thread() -> bool:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    assert worker_nursery.can_be_forked()
    thread.start()
    try:
        return worker_nursery.can_be_forked()
    finally:
        end.set()
        thread.join()


def test_what_has_a_thread_is_not_forked() -> None:
    assert alone(can_be_forked_beside_a_thread) is False


def agent(told: Connection) -> None:
    """An agent of a nursery and a worker, for as long as it lives."""

    async def live() -> None:
        nursery = Nursery(None)
        held = Held()
        await nursery.start(dict(os.environ))
        session = Session(program=Program("tests.trainer.test_loop:Line"))
        await held.start({**os.environ, **session.to_env()}, nursery)
        assert await held.receive() == Ready()
        told.send([one.pid for one in psutil.Process().children()])
        await asyncio.sleep(PATIENCE)

    asyncio.run(live())


def test_nursery_and_workers_die_with_their_agent() -> None:
    ours, theirs = FORKS.Pipe()
    process = Process(agent, theirs)
    assert ours.poll(PATIENCE)
    left = [psutil.Process(pid) for pid in ours.recv()]
    assert {one.name() for one in left} == {NURSERY, WORKER}
    os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(left, timeout=PATIENCE)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in left)
    process.close()
    ours.close()
    theirs.close()


def test_processes_of_the_tests_begin_with_all_that_they_need() -> None:
    """No module may change what their server imports by being imported: there is only one server.

    Else each of many hundreds of processes would import anew what its test needs.
    """
    assert alone(gc.get_freeze_count) > 100_000, "tests.trainer.preloaded was not imported"
