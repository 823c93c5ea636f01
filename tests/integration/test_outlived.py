"""A run outlives its launch and its emulator, and whoever reads what they say.

The replicas run a small script in place of the trainer.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from launcher.status.status import UNATTENDED
from tests.disks import disk, with_disks
from tests.integration.command import LIMIT, until
from tests.integration.scripted import ScriptedSwell
from tests.starvation import starvation, with_starvation
from trainer.rundir.directory import RunDirectory
from trainer.rundir.locks import is_held


@pytest.fixture
def swell(tmp_path: Path) -> Iterator[ScriptedSwell]:
    swell = ScriptedSwell(tmp_path)
    yield swell
    swell.close()


# One of them alone is a soak: test_kills draws who is killed, and others here kill emulators.
@pytest.mark.parametrize(
    "killed",
    [*(pytest.param(one, marks=pytest.mark.soak) for one in ("launch", "emulator")), "both"],
)
def test_a_run_outlives_its_launch_and_its_emulator(swell: ScriptedSwell, killed: str) -> None:
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    before = swell.vms("one")
    if killed != "launch":
        os.kill(swell.emulator("one"), signal.SIGKILL)
    if killed != "emulator":
        launch.kill()
        launch.communicate()
        status = swell.status("one")
        assert status["state"] == "running"
        assert status["reason"] == UNATTENDED
        swell.start("attach", "one")
        until(lambda: home_lives(swell, "one"))
    until(lambda: swell.vms("one"))
    assert swell.vms("one") == before, "the same VMs, which nothing has happened to"
    for name in before:
        (swell.run_dir("one") / f"up-{name}").unlink()
    until(lambda: swell.is_up("one"))
    RunDirectory(str(swell.run_dir("one"))).end("succeeded", "training is complete")
    followed = swell.launches[-1]
    followed.communicate(timeout=LIMIT)
    assert followed.returncode == 0
    assert swell.nothing_is_left()
    [attempt] = swell.status("one")["attempts"]
    assert attempt["state"] == "SUCCEEDED"


def test_an_emulator_that_cannot_be_started_again_is_told_at_once_and_waited_for(
    swell: ScriptedSwell,
) -> None:
    """Its VMs run meanwhile, and once its state is what it must be, it serves them again."""
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    before = swell.vms("one")
    token = swell.state("one") / "token"
    token.chmod(0o644)
    os.kill(swell.emulator("one"), signal.SIGKILL)
    assert launch.stdout is not None
    said = ""
    for line in launch.stdout:
        said += line
        if "SW3010" in line:
            break
    assert "has not told how attempt 1 goes for 5 s; trying for 595 s more" in said
    assert f"did not start: swell emulator: {token} is not the token of this user alone" in said
    assert "over:" not in said
    token.chmod(0o600)
    until(lambda: swell.vms("one"))
    assert swell.vms("one") == before
    RunDirectory(str(swell.run_dir("one"))).end("succeeded", "training is complete")
    said, _ = launch.communicate(timeout=LIMIT)
    assert launch.returncode == 0, said
    assert "over: http://127.0.0.1:" in said
    assert swell.nothing_is_left()


@with_disks
@pytest.mark.parametrize("lack", ["room", pytest.param("inodes", marks=pytest.mark.soak)])
def test_neither_a_vm_nor_an_emulator_needs_a_disk_that_takes_anything_to_come_back(
    swell: ScriptedSwell, lack: str
) -> None:
    with disk(swell.home, "size=8m,nr_inodes=4000") as mounted:
        launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
        until(lambda: swell.is_up("one"))
        before = swell.vms("one")
        mounted.fill() if lack == "room" else mounted.use_up_inodes()
        os.kill(before["workerpool1-0"], signal.SIGKILL)
        until(lambda: swell.vms("one")["workerpool1-0"] not in (None, before["workerpool1-0"]))
        before = swell.vms("one")
        os.kill(swell.emulator("one"), signal.SIGKILL)
        until(lambda: swell.vms("one"))
        assert swell.vms("one") == before
        RunDirectory(str(swell.run_dir("one"))).end("succeeded", "training is complete")
        said, _ = launch.communicate(timeout=LIMIT)
        assert launch.returncode == 0, said
        why = "is full" if lack == "room" else "has no inodes left"
        assert f"the disk {swell.home} {why}: the run directory and the replicas' logs" in said
        assert len(swell.status("one")["attempts"]) == 1
        assert swell.nothing_is_left()


def home_lives(swell: ScriptedSwell, run: str) -> bool:
    """Whether a launch looks after the run."""
    return is_held(swell.state(run) / "launch.lock")


def test_an_emulator_that_nobody_needs_ends_by_itself_and_its_run_is_over(
    swell: ScriptedSwell,
) -> None:
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    launch.kill()
    launch.communicate()
    os.kill(swell.emulator("one"), signal.SIGKILL)
    RunDirectory(str(swell.run_dir("one"))).end("succeeded", "training is complete")
    until(swell.nothing_is_left)  # the VMs end by themselves
    answer = swell("attach", "one")
    assert answer.returncode == 0, answer.stdout
    assert swell.status("one")["attempts"][-1]["state"] == "SUCCEEDED"
    assert swell.nothing_is_left()


def test_neither_a_reader_that_goes_away_nor_a_terminal_that_hangs_up_ends_a_run(
    swell: ScriptedSwell,
) -> None:
    launch = swell.start("launch", swell.job("wait"), "--run-id", "unheard")
    assert launch.stdout is not None
    launch.stdout.readline()
    launch.stdout.close()
    until(lambda: swell.is_up("unheard"))
    launch.send_signal(signal.SIGHUP)
    log = swell.run_dir("unheard") / "local" / "launch.log"
    until(lambda: log.exists() and "the terminal is gone" in log.read_text())
    assert launch.poll() is None
    RunDirectory(str(swell.run_dir("unheard"))).end("succeeded", "training is complete")
    assert launch.wait(LIMIT) == 0
    assert "unheard succeeded" in log.read_text(), "what follows is there"


CLOSED = ["<&-", ">&-", "2>&-"]


@pytest.mark.parametrize(
    "redirected",
    [
        "> /dev/full 2>&1",
        *(
            pytest.param(" ".join(some), marks=[] if n in (1, 3) else [pytest.mark.soak])
            for n in (1, 2, 3)
            for some in combinations(CLOSED, n)
        ),
    ],
)
def test_output_that_nothing_takes_does_not_change_how_a_run_ends(
    swell: ScriptedSwell, redirected: str
) -> None:
    """A file on a full disk; standard streams that are closed, in all combinations."""
    command = f"{sys.executable} -m launcher.cli launch {swell.job('fail')} {redirected}"
    done = subprocess.run(
        ["sh", "-c", command],
        env=swell.environment(),
        timeout=LIMIT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert ("[SW2053]" in done.stderr) == (redirected in (">&-", "<&- >&-")), "somebody is told"
    assert "Traceback" not in done.stderr and "Errno" not in done.stderr


def full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing more until it is read."""
    reads, writes = os.pipe()
    size = fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writes, b"." * size)
    return reads, writes


def test_a_pipe_that_is_full_and_that_nobody_reads_holds_nothing_up(swell: ScriptedSwell) -> None:
    """All that a launch does for its run it does meanwhile; how it ended it tells in the end."""
    reads, writes = full_pipe()
    launch = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", "launch", swell.job("wait"), "--run-id", "one"],
        env=swell.environment(),
        stdin=subprocess.DEVNULL,
        stdout=writes,
        stderr=writes,
    )
    os.close(writes)
    with os.fdopen(reads) as unread:
        try:
            until(lambda: swell.is_up("one"))
            before = swell.vms("one")
            os.kill(swell.emulator("one"), signal.SIGKILL)
            until(lambda: swell.vms("one") == before)  # it has started another one
            RunDirectory(str(swell.run_dir("one"))).end("succeeded", "training is complete")
            until(lambda: swell.processes() == [launch.pid])
            assert launch.poll() is None, "somebody may still want to read it"
            said = unread.read()
            assert launch.wait(LIMIT) == 0
        finally:
            launch.kill()
            launch.wait()
    assert said.startswith(".") and "one succeeded" in said


@with_starvation
def test_whom_the_kernel_kills_for_want_of_memory(swell: ScriptedSwell) -> None:
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    before, emulator = swell.vms("one"), swell.emulator("one")
    with starvation() as group:
        group.take(emulator)
        until(lambda: swell.vms("one") == before and swell.emulator("one") != emulator)
        group.take(launch.pid)
        assert launch.wait(LIMIT) == -signal.SIGKILL
    attached = swell.start("attach", "one")
    until(lambda: home_lives(swell, "one"))
    until(lambda: swell.vms("one"))
    assert swell.vms("one") == before, "the same VMs"
    RunDirectory(str(swell.run_dir("one"))).end("succeeded", "training is complete")
    said, _ = attached.communicate(timeout=LIMIT)
    assert attached.returncode == 0, said
    assert len(swell.status("one")["attempts"]) == 1
    assert swell.nothing_is_left()
