"""One training process: what it tells its agent when the user's code raises, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ranks import Meeting, Process, Worker, alone, form, workers, world_of
from trainer.protocol.channel import ENV_CONTROL
from trainer.protocol.messages import Exit, Failed, Ready
from trainer.protocol.session import (
    CheckpointSettings,
    CodeSettings,
    Program,
    Session,
    TorchrunSettings,
)

TASK = """
from trainer import Task
from trainer.rundir.usererror import UserError

class Raising(Task):
    def __init__(self, text="in the constructor", when="constructor"):
        self.text = text
        if when == "constructor":
            raise ValueError(text)
        if when == "ours":
            raise UserError("SW0001", text)
    def dataset(self):
        deeply_nested(self.text)

def deeply_nested(text):
    raise ZeroDivisionError(text)

class Exiting(Task):
    def __init__(self, ending):
        exec(ending)
"""
INSTEAD = (
    "ends a worker, and no run: to complete it early call elastic.stop(), or return True from "
    "should_stop(); to fail it raise an error [SW5008]"
)


def worker(channel: Any, session: Session) -> int:
    """``trainer.worker.worker.main`` with a session; the harness brought the pipes."""
    import trainer.worker.worker

    module: Any = trainer.worker.worker

    os.environ.update(session.to_env())
    module.AgentChannel.inherited = lambda: channel
    code: int = module.main()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "a notice is for the agent"
    return code


def failed(session: Session) -> tuple[str, int]:
    """What a worker that fails says, and its exit code."""
    one = Worker(worker, [session])
    try:
        message = one.receive()
        assert isinstance(message, Failed)
        return message.reason, one.process.result()
    finally:
        one.close()


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "raising_task.py"
    path.write_text(TASK)
    return f"{path}:Raising"


@pytest.mark.parametrize(
    "args, last, place",
    [
        ({"text": "böse"}, "ValueError: böse", "in __init__"),
        ({"text": "x", "when": "later"}, "ZeroDivisionError: x", "in deeply_nested"),
        ({"momentum": 1}, "TypeError: ", "in train"),
    ],
    ids=["constructor", "dataset", "unknown argument"],
)
def test_what_the_users_code_raises_is_told_with_its_traceback(
    task: str, args: dict[str, Any], last: str, place: str
) -> None:
    reason, code = failed(Session(program=Program(task, args)))
    assert code == 1
    assert reason.startswith("Traceback (most recent call last):")
    assert last in reason.splitlines()[-1]
    assert place in reason


@pytest.mark.parametrize(
    "ending, call",
    [
        ("raise SystemExit(3)", "sys.exit(3)"),
        ("exit()", "sys.exit()"),
        ("import sys; sys.exit('no data')", "sys.exit('no data')"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--x'])", "sys.exit(2)"),
        ("import sys\ntry: 1 / 0\nexcept Exception: sys.exit(1)", "sys.exit(1)"),
    ],
)
def test_who_exits_is_told_where_that_was_and_what_to_do(task: str, ending: str, call: str) -> None:
    reason, code = failed(Session(program=Program(f"{task[:-7]}Exiting", {"ending": ending})))
    assert code == 1
    first, *_, last = reason.splitlines()
    assert first == "Traceback (most recent call last):"
    place = f"{task.partition(':')[0]}:{1 + TASK.splitlines().index('        exec(ending)')}"
    assert last == f"{call} at {place} {INSTEAD}"
    assert ("ZeroDivisionError" in reason) is ("1 / 0" in ending)


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError"])
def test_what_is_no_exception_of_pythons_common_kind_is_told_too(task: str, name: str) -> None:
    ending = f"import asyncio; raise {name}('by a library')"
    reason, code = failed(Session(program=Program(f"{task[:-7]}Exiting", {"ending": ending})))
    assert code == 1
    assert reason.splitlines()[-1].endswith(f"{name.rpartition('.')[2]}: by a library")


def test_what_swell_itself_has_to_say_is_told_with_its_id_and_no_traceback(task: str) -> None:
    args = {"text": "there is none; write one", "when": "ours"}
    assert failed(Session(program=Program(task, args))) == ("there is none; write one [SW0001]", 1)


SCRIPT = """
import sys
import horovod.torch as hvd
from horovod.common.elastic import ObjectState

@hvd.elastic.run
def train(state):
    if sys.argv[1] == "inside":
        raise ConnectionResetError("its line to the data")

hvd.init()
train(ObjectState(hvd.broadcast_object, hvd.rank))
if sys.argv[1] == "exit":
    sys.exit("no data")
raise ConnectionResetError("its line to the data")
"""


@pytest.mark.parametrize(
    "where, kind, reason",
    [
        ("inside", "raised", "ConnectionResetError: its line to the data"),
        ("after", "program", "ConnectionResetError: its line to the data"),
        ("exit", "program", "script.py:14 ends a worker, and no run: to complete it early call"),
    ],
)
def test_what_a_script_raises_in_its_elastic_function_may_be_of_its_machine_alone(
    tmp_path: Path, where: str, kind: str, reason: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    session = Session(program=Program(script=str(script), args=[where]))
    with workers(worker, [session]) as (one,):
        one.until(Ready)
        with Meeting(world_of(1, generation=1)) as meeting:
            form(meeting, [one])
            while not isinstance(message := one.receive(), Failed):
                pass
        assert (message.kind, one.process.result()) == (kind, 1)
        assert reason in message.reason.splitlines()[-1]


@pytest.mark.parametrize(
    "name, last",
    [
        ("no_such_module:Task", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("no colon", "is not module:Class or path/to/file.py:Class"),
    ],
)
def test_a_task_that_is_not_found_is_told(name: str, last: str) -> None:
    reason, code = failed(Session(program=Program(name)))
    assert code == 1
    assert last in reason.splitlines()[-1]


def test_a_worker_is_warm_before_it_is_ready_and_exits_when_told() -> None:
    one = Worker(worker, [Session(program=Program("tests.trainer.test_loop:Line"))])
    try:
        assert one.receive() == Ready()
        os.kill(one.process.pid, signal.SIGTERM)
        one.send(Exit())
        assert one.process.result() == 0
    finally:
        one.close()


def test_without_an_agent_it_says_who_starts_it() -> None:
    env = {key: value for key, value in os.environ.items() if key != ENV_CONTROL}
    answer = subprocess.run(
        [sys.executable, "-m", "trainer.worker"], env=env, capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert answer.stderr == "trainer.worker is started by an agent (swell-agent)\n"


def parent_of_one_that_dies_with_it(fifo: str) -> None:
    program = (
        "import sys, time, trainer.worker.worker; trainer.worker.worker.die_with_parent();"
        "pipe = open(sys.argv[1], 'w', buffering=1); pipe.write('here\\n'); time.sleep(600)"
    )
    subprocess.run([sys.executable, "-c", program, fifo], check=True)


def test_a_worker_dies_with_its_agent(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    parent = Process(parent_of_one_that_dies_with_it, str(fifo))
    with fifo.open() as pipe:
        assert pipe.readline() == "here\n"
        parent.kill()
        assert pipe.read() == "", "the end comes when nobody holds the pipe any more"
    parent.close()


def session_of(env: dict[str, str]) -> Session:
    from trainer.protocol.session import current_session

    os.environ.update(env)
    return current_session()


def test_a_session_reaches_the_worker_through_its_environment(tmp_path: Path) -> None:
    session = Session(
        str(tmp_path),
        "w-0-1",
        1,
        True,
        Program("a:B", {"x": [1, "é"]}),
        CheckpointSettings(keep=7),
        ["gs://here"],
        CodeSettings(64 * "a", 1, folder="/code"),
        audit=True,
        torchrun=TorchrunSettings(sizes=[2]),
    )
    assert alone(session_of, session.to_env()) == session
    assert session.run_dir is not None and session.run_dir.url == str(tmp_path)


def test_a_lone_process_has_a_session_without_a_run() -> None:
    assert alone(session_of, {}) == Session()
    assert Session().run_dir is None
