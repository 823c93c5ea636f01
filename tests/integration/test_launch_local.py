"""``swell launch`` on the local target, as a user meets it: real processes, and nothing left.

The replicas run a small script in place of the trainer, so that these tests need no torch. What
outlives what is in test_outlived.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import home
from launcher.status.status import ABANDONED
from tests.integration.command import LIMIT, until
from tests.integration.scripted import ScriptedSwell


@pytest.fixture
def swell(tmp_path: Path) -> Iterator[ScriptedSwell]:
    swell = ScriptedSwell(tmp_path)
    yield swell
    swell.close()


def stays_away(path: Path) -> bool:
    """Whether nobody makes ``path`` anew within ten times its maker's beat."""
    path.unlink(missing_ok=True)
    time.sleep(0.5)
    return not path.exists()


def emulator_port(swell: ScriptedSwell, run: str) -> int:
    endpoint: str = swell.status(run)["attempts"][-1]["endpoint"]
    return int(endpoint.rpartition(":")[2])


def is_listening(port: int) -> bool:
    """Whether any process listens there, from the kernel's own table."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A" and int(local.split(":")[1], 16) == port:
            return True
    return False


def test_a_run_succeeds(swell: ScriptedSwell) -> None:
    launch = swell("launch", swell.job("succeed"), "--run-id", "one")
    assert launch.returncode == 0, launch.stderr
    assert "one succeeded" in launch.stdout
    assert "\x1b" not in launch.stdout, "no control codes where there is no terminal"
    status = swell.status("one")
    assert (status["state"], status["step"]) == ("succeeded", 3)
    assert status["metrics"] == {"loss": 0.5, "test_accuracy": 0.97}
    told = json.loads(swell("status", "one", "--json").stdout)
    assert told == {**status, "api": None, "machines": {}}, "what other tests read themselves"
    assert not is_listening(emulator_port(swell, "one"))
    assert swell.nothing_is_left()


def test_a_failed_task_is_shown_once(swell: ScriptedSwell) -> None:
    launch = swell("launch", swell.job("fail"), "--run-id", "one")
    assert launch.returncode == 1
    assert launch.stdout.count("ZeroDivisionError") == 1
    assert launch.stderr == ""
    assert not is_listening(emulator_port(swell, "one"))
    assert swell.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_run(swell: ScriptedSwell, number: signal.Signals) -> None:
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    port = emulator_port(swell, "one")
    assert is_listening(port)
    launch.send_signal(number)
    said, _ = launch.communicate(timeout=LIMIT)
    assert launch.returncode == 3
    assert "--detach" in said, "it says how a run is left going"
    assert "Traceback" not in said
    assert swell.nothing_is_left() and not is_listening(port)
    status = swell.status("one")
    assert status["state"] == "cancelled"
    assert status["attempts"][-1]["state"] == "CANCELLED"


def test_a_second_ctrl_c_leaves_no_orphan(swell: ScriptedSwell) -> None:
    launch = swell.start("launch", swell.job("deaf"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    launch.send_signal(signal.SIGINT)
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=LIMIT)
    assert launch.returncode == 3
    assert swell.nothing_is_left()


def test_ctrl_c_while_it_starts(swell: ScriptedSwell) -> None:
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
    until(lambda: (swell.home / "runs/one/run.json").exists())
    launch.send_signal(signal.SIGINT)
    said, _ = launch.communicate(timeout=LIMIT)
    assert launch.returncode == 3 and "Traceback" not in said
    assert swell.nothing_is_left()


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_killed_launch_left_can_be_stopped(swell: ScriptedSwell, killed: bool) -> None:
    launch = swell.start("launch", swell.job("deaf"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    launch.kill()
    launch.communicate()
    if killed:
        os.kill(swell.emulator("one"), signal.SIGKILL)
    answer = swell("emulator", "stop", "one")
    assert (answer.returncode, answer.stdout) == (0, "the emulator of run one is stopped\n")
    assert swell.nothing_is_left()
    status = swell.status("one")
    assert status["state"] == "failed" and status["reason"] == ABANDONED
    answer = swell("emulator", "stop", "one")
    assert (answer.returncode, answer.stdout) == (0, "run one has no emulator\n")


def test_a_run_that_nobody_looks_after_is_cancelled(swell: ScriptedSwell) -> None:
    launch = swell.start("launch", swell.job("deaf"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    launch.kill()
    launch.communicate()
    assert swell("cancel", "one").stdout == "run one is cancelled\n"
    assert swell.nothing_is_left()


def test_another_terminal_cancels(swell: ScriptedSwell) -> None:
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one")
    until(lambda: swell.is_up("one"))
    answer = swell("cancel", "on")
    assert (answer.returncode, answer.stdout) == (0, "run one is cancelled\n")
    launch.communicate(timeout=LIMIT)
    assert launch.returncode == 3
    assert swell.nothing_is_left()
    assert "had ended before: cancelled" in swell("cancel", "one").stdout


def test_a_detached_run_goes_on(swell: ScriptedSwell) -> None:
    answer = swell("launch", swell.job("wait"), "--run-id", "one", "--detach")
    assert answer.returncode == 0, answer.stderr
    assert "swell cancel one" in answer.stdout
    until(lambda: swell.is_up("one"))
    assert swell.status("one")["state"] == "running"
    assert "replica workerpool1-0 is up" in swell("logs", "one").stdout
    assert swell("cancel", "one").returncode == 0
    until(swell.nothing_is_left)
    assert swell.status("one")["state"] == "cancelled"
    logs = swell("logs", "one", "--replica", "workerpool1-0").stdout
    assert "workerpool1-0 is up" in logs and "workerpool0-0" not in logs
    local = swell.run_dir("one") / "local"
    kept = {local, *local.glob("*.*"), *local.glob("logs/*/*"), *local.glob("vms/*/*/*.log")}
    names = {path.name for path in kept}
    assert {"launch.log", "launch.lock", "emulator.log", "workerpool1-0.jsonl"} <= names
    assert not [path for path in kept if path.stat().st_mode & 0o077], "nobody else's to read"


def test_a_launch_is_never_seen_as_gone_on_its_way_into_the_background(
    swell: ScriptedSwell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_HOME", str(swell.home))
    launch = swell.start("launch", swell.job("wait"), "--run-id", "one", "--detach")
    until(lambda: (swell.home / "runs/one/run.json").exists())
    while launch.poll() is None:
        assert home.launch_lives("one")
        time.sleep(0.002)
    assert launch.returncode == 0 and home.launch_lives("one")
    assert swell("cancel", "one").returncode == 0
    until(swell.nothing_is_left)


def test_a_vm_is_taken_away_and_given_back(swell: ScriptedSwell) -> None:
    swell("launch", swell.job("wait"), "--run-id", "one", "--detach")
    until(lambda: swell.is_up("one"))
    up = swell.home / "runs/one/up-workerpool1-0"
    assert swell("preempt", "one", "workerpool1-0", "--silent").returncode == 0
    until(lambda: stays_away(up))
    assert swell("preempt", "one", "workerpool1-0", "--restore").returncode == 0
    until(up.exists)
    stranger = swell("preempt", "one", "workerpool1-9")
    assert stranger.returncode == 2
    assert "did you mean workerpool1-0?" in stranger.stderr
    swell("cancel", "one")
    late = swell("preempt", "one", "workerpool1-0")
    told = "swell: one: has ended (cancelled); it has no VMs [SW2011]\n"
    assert (late.returncode, late.stderr) == (2, told)


def test_the_final_status_can_be_had_as_json_and_a_run_id_is_used_once(
    swell: ScriptedSwell,
) -> None:
    job = swell.job("succeed")
    launch = swell("launch", job, "--run-id", "one", "--json")
    assert json.loads(launch.stdout)["state"] == "succeeded" and launch.returncode == 0
    for more in ([], ["--detach"]):
        again = swell("launch", job, "--run-id", "one", *more)
        assert again.returncode == 2
        assert again.stderr.startswith("swell: --run-id one: there is a run of this id already")


def test_bad_input_starts_nothing(swell: ScriptedSwell) -> None:
    bad = swell("launch", swell.job("succeed"), "--set", "pools.0.replicas=2")
    assert bad.returncode == 2
    assert bad.stderr.startswith("swell: --set pools.0.replicas=2: pools.0.replicas: is 2")
    assert not swell.home.exists()


def test_a_run_from_python(swell: ScriptedSwell) -> None:
    program = swell.folder / "program.py"
    program.write_text(
        "import sys\n"
        "from launcher import launch, load_job\n"
        "run = launch(load_job(sys.argv[1]), run_id='one')\n"
        "outcome = run.wait()\n"
        "print(outcome.state, outcome.metrics['test_accuracy'], run.status()['step'])\n"
    )
    answer = subprocess.run(
        [sys.executable, str(program), swell.job("succeed")],
        env=swell.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (answer.stdout, answer.stderr) == ("succeeded 0.97 3\n", "")
    assert swell.nothing_is_left()
