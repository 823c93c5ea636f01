"""A keeper with real processes: nothing of a generation is there when the next one forms."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.trainer.ranks import PATIENCE
from tests.trainer.worker.kept import Kept
from trainer.protocol.messages import (
    Abort,
    Done,
    Event,
    Exited,
    Failed,
    Message,
    Pause,
    Progress,
    Steps,
    Stopped,
)
from trainer.reporting import ENV_REPORT
from trainer.rundir.names import ENV_OUTPUT_DIR
from trainer.worker.process_group import MANY

NOTED = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[0]).parent
def note(name):
    (folder / name).write_text(str(os.getpid()))
"""
STRAGGLER = NOTED + "signal.signal(signal.SIGTERM, signal.SIG_IGN); note('main'); time.sleep(600)"
SAVES = NOTED + (
    "def save(*_):\n    note('saved'); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save); note('main'); time.sleep(600)"
)
# It needs what it has started until it has saved; as with the workers of torch's DataLoader.
SAVES_WITH_HELP = NOTED + (
    "helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "def save(*_):\n"
    "    time.sleep(0.2); assert helper.poll() is None; note('saved'); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save); (folder / 'helper').write_text(str(helper.pid))\n"
    "note('main'); time.sleep(600)"
)
# Its child ignores SIGTERM, in a session of its own; it goes on when its parent is gone.
LEAVES_A_CHILD = NOTED + (
    "code = 'import signal, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); '\n"
    "code += 'print(1, flush=True); time.sleep(600)'\n"
    "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,"
    " start_new_session=True)\n"
    "child.stdout.readline(); (folder / 'child').write_text(str(child.pid)); note('main')\n"
)
# Another program, which is none of its children, has what it says how far it is with.
HANDS_OVER = NOTED + (
    "import socket\nthere = socket.socket(socket.AF_UNIX)\nthere.connect(str(folder / 'there'))\n"
    f"socket.send_fds(there, [b'.'], [int(os.environ[{ENV_REPORT!r}])])\n"
    "note('main'); time.sleep(600)"
)
TRAINS = """
import torch
{group}
weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([weight], 0.1)
for _ in range({steps}):
    weight.sum().backward()
    optimizer.step()
print("trained")
"""
GROUP = """
from torch.testing._internal.distributed.fake_pg import FakeStore
torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
"""
UNUSED = """
import os
torch.distributed.init_process_group("gloo", init_method="file://" + os.path.abspath("met"), rank=0,
                                     world_size=1)
"""


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.close()


def begin(kept: Kept, text: str) -> int:
    """Starts a script, and waits until it has noted its process id."""
    (kept.folder / "main").unlink(missing_ok=True)
    (kept.folder / "case.py").write_text(text)
    kept.start()
    return noted(kept.folder / "main")


def noted(file: Path) -> int:
    assert until(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def until(condition: Callable[[], object]) -> bool:
    """Returns whether it has come true."""
    deadline = time.monotonic() + PATIENCE
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(true)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_straggler_that_ignores_sigterm_is_gone_before_the_keeper_says_so(kept: Kept) -> None:
    first = begin(kept, STRAGGLER)
    assert kept.leave().generation == 1
    assert not lives(first), "it would disturb the next world"
    second = begin(kept, STRAGGLER)
    assert second != first
    kept.send(Abort(1))
    kept.send(Pause(1, 0.0))
    assert kept.beat() and lives(second), "what is said of the last generation means nothing"


def test_who_wants_to_save_has_the_time_for_it(kept: Kept) -> None:
    process = begin(kept, SAVES)
    kept.send(Pause(1, PATIENCE))
    assert kept.receive() == Stopped(1, 0, True, "", whole=True)
    assert noted(kept.folder / "saved") == process


def test_what_it_has_started_is_asked_to_end_only_after_it(kept: Kept) -> None:
    process = begin(kept, SAVES_WITH_HELP)
    helper = noted(kept.folder / "helper")
    kept.send(Pause(1, PATIENCE))
    assert kept.until(Stopped).whole
    assert noted(kept.folder / "saved") == process
    assert not lives(helper)


@pytest.mark.parametrize("end", ["time.sleep(600)", "raise ValueError", "os.abort()"])
def test_what_a_process_leaves_behind_is_gone_as_well(kept: Kept, end: str) -> None:
    main = begin(kept, LEAVES_A_CHILD + end)
    child = noted(kept.folder / "child")
    kept.send(Abort(1))
    kept.until(Stopped)
    assert not lives(main) and not lives(child)


def test_what_it_leaves_behind_when_it_ends_well_may_go_on_until_the_world_ends(kept: Kept) -> None:
    begin(kept, LEAVES_A_CHILD)
    child = noted(kept.folder / "child")
    kept.until(Done)
    assert lives(child), "it may have something to write still"
    kept.leave()
    assert not lives(child)


def test_a_process_that_a_signal_has_stopped_is_seen_and_ended_without_delay(kept: Kept) -> None:
    process = begin(kept, STRAGGLER)
    assert not kept.beat().frozen
    os.kill(process, signal.SIGSTOP)
    assert until(lambda: kept.beat().frozen)
    os.kill(process, signal.SIGCONT)
    assert until(lambda: not kept.beat().frozen)
    os.kill(process, signal.SIGSTOP)
    assert until(lambda: kept.beat().frozen)
    kept.leave()
    assert not lives(process)


def test_a_killed_keeper_takes_its_process_along(kept: Kept) -> None:
    process = begin(kept, STRAGGLER)
    kept.process.kill()
    assert kept.process.wait(PATIENCE) == -signal.SIGKILL
    assert until(lambda: not lives(process))


def test_an_agent_that_is_gone_ends_keeper_and_process(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    process = begin(kept, STRAGGLER)
    kept.close_orders()
    assert kept.process.wait(PATIENCE) == 0
    assert until(lambda: not lives(process))
    kept.close()


def test_the_end_of_the_run_ends_a_process_that_does_not_want_to(kept: Kept) -> None:
    process = begin(kept, STRAGGLER)
    kept.close()
    assert kept.process.returncode == 0 and not lives(process)


def test_a_failure_comes_with_its_traceback_and_a_signal_with_its_name(kept: Kept) -> None:
    begin(kept, NOTED + "note('main')\nraise ValueError('twelve pears')")
    failure = kept.until(Exited)
    assert (failure.generation, failure.rank, failure.code) == (1, 0, 1)
    assert failure.reason.startswith("Traceback (most recent call last):\n")
    assert failure.reason.endswith("ValueError: twelve pears\n")
    kept.leave()
    begin(kept, NOTED + "note('main')\nos.kill(os.getpid(), 11)")
    assert kept.until(Exited).reason == "killed by SIGSEGV", "not the one before"
    kept.leave()
    begin(kept, NOTED + "note('main')\nsys.exit(7)")
    reason = kept.until(Exited).reason
    assert reason.startswith("Traceback (") and reason.endswith("sys.exit(7)\nSystemExit: 7\n")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ('{"message": {"message": "E: x", "extraInfo": {"py_callstack": "Trace"}}}', "Trace"),
        ('{"message": {"message": "E: x"}}', "E: x"),
        ('{"message": "plain"}', "plain"),
        ("{", "exit code 7"),
        ("[]", "exit code 7"),
        ('{"message": 5}', "exit code 7"),
    ],
)
def test_what_a_script_has_recorded_itself_is_passed_on(kept: Kept, file: str, reason: str) -> None:
    text = f"Path(os.environ['TORCHELASTIC_ERROR_FILE']).write_text('''{file}''')\n"
    begin(kept, NOTED + "note('main')\n" + text + "sys.exit(7)")
    assert kept.until(Exited).reason == reason


def test_every_generation_has_an_error_file_of_its_own(kept: Kept) -> None:
    text = "print(os.path.exists(os.environ['TORCHELASTIC_ERROR_FILE'])); raise ValueError"
    for _ in range(2):
        begin(kept, NOTED + "note('main')\n" + text)
        kept.until(Exited)
        kept.leave()
    assert kept.said()[0] == "False\nFalse\n"


def test_rank_0_tells_how_far_it_is_and_no_other_does(kept: Kept) -> None:
    text = "from trainer import report\nreport(step=4, loss=0.5)\nreport(step=5)\n"
    begin(kept, NOTED + "note('main')\n" + text)
    told = [kept.until(Progress).step, kept.until(Steps), kept.until(Steps), kept.until(Done).step]
    assert told == [4, Steps(1, 4, {"loss": [0.5]}), Steps(1, 5, {"step": [5.0]}), 5]
    kept.leave()
    (kept.folder / "main").unlink()
    kept.start({"RANK": "1"})
    assert isinstance(kept.receive(), Done)


def test_who_was_handed_a_process_s_line_speaks_for_no_later_one(kept: Kept) -> None:
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(kept.folder / "there"))
        there.listen()
        begin(kept, HANDS_OVER)
        connection, _ = there.accept()
        with connection:
            _, (line, *_), *_ = socket.recv_fds(connection, 1, 1)
    os.write(line, b'{"step": 3, "metrics": {}}\n')
    assert kept.until(Progress).step == 3
    kept.leave()
    begin(kept, STRAGGLER)
    with pytest.raises(BrokenPipeError):
        os.write(line, b'{"step": 4, "metrics": {}}\n')
    os.close(line)


def test_output_that_is_read_for_steps_comes_out_as_it_went_in(tmp_path: Path) -> None:
    kept = Kept(tmp_path, progress=r"step (?P<step>\d+)")
    try:
        begin(
            kept,
            NOTED + "note('main')\nprint('step 7')\nprint('step 8', file=sys.stderr)\n"
            "os.write(1, b'\\xff' * 200_000); os.write(1, b'no end'); raise SystemExit(3)",
        )
        assert {kept.until(Steps).first, kept.until(Steps).first} == {7, 8}
        assert kept.until(Exited).code == 3
        assert kept.stdout.read_bytes() == b"step 7\n" + b"\xff" * 200_000 + b"no end"
        assert kept.stderr.read_text() == "step 8\n"
    finally:
        kept.close()


def test_event_files_tell_how_far_it_is(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    variables = {ENV_OUTPUT_DIR: str(output)}
    kept = Kept(tmp_path, progress="tensorboard", variables=variables)
    try:
        write = (
            "from torch.utils.tensorboard import SummaryWriter\n"
            "with SummaryWriter(os.environ['SWELL_OUTPUT_DIR'] + '/logs') as writer:\n"
            "    writer.add_scalar('loss', 0.5, {step})\n"
        )
        begin(kept, NOTED + "note('main')\n" + write.format(step=7))
        assert kept.until(Steps) == Steps(1, 7, {"loss": [0.5]})
        kept.until(Done)
        kept.leave()
        begin(kept, NOTED + "note('main')\n" + write.format(step=4))
        assert kept.until(Steps) == Steps(2, 4, {"loss": [0.5]}), "the new one's alone"
    finally:
        kept.close()


def test_what_is_preloaded_is_there_when_a_process_starts(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import os\nimported_by = os.getpid()\n")
    kept = Kept(tmp_path, preload=["heavy"], site=tmp_path)
    try:
        text = "import heavy\nprint(heavy.imported_by == os.getppid())\n"
        begin(kept, NOTED + text + "note('main')")
        kept.until(Done)
        assert kept.said() == ("True\n", "")
    finally:
        kept.close()


def test_a_module_that_cannot_be_preloaded_ends_the_run_with_its_name(tmp_path: Path) -> None:
    kept = Kept(tmp_path, preload=["a_module_that_there_is_not"], ready=False)
    try:
        failed = kept.receive()
        assert isinstance(failed, Failed)
        assert "a_module_that_there_is_not cannot be imported" in failed.reason
        assert "[SW5022]" in failed.reason
    finally:
        kept.close()


def test_who_trains_by_itself_in_a_world_of_several_says_so(tmp_path: Path) -> None:
    kept = Kept(tmp_path, preload=["torch"])

    def told(size: str, group: str, steps: int = 3) -> list[Message]:
        (kept.folder / "case.py").write_text(TRAINS.format(group=group, steps=steps))
        kept.start({"WORLD_SIZE": size})
        messages = [kept.receive()]
        while not isinstance(messages[-1], Done):
            messages.append(kept.receive())
        kept.leave()
        assert kept.said() == ("trained\n", "")
        return messages[:-1]

    try:
        (event,) = told("2", "")
        assert isinstance(event, Event) and event.name == "no_group"
        assert event.fields["generation"] == 1 and event.fields["world_size"] == 2
        assert "each of the 2 processes trains a model of its own" in event.fields["reason"]
        assert told("1", "") == [], "a plain script, in a process of its own"
        assert told("2", GROUP) == []
        assert told("2", UNUSED) == [], "too few steps to tell"
        (event,) = told("2", UNUSED, MANY)
        assert isinstance(event, Event) and event.name == "no_group"
        assert "nothing was ever sent through its process group" in event.fields["reason"]
    finally:
        kept.close()
