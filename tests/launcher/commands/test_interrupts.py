"""Ctrl-C ends a command at once, also where Python's own handlers do not run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from launcher.run_states import CANCELLED
from tests.integration.command import ROOT
from tests.trainer.ranks import PATIENCE

# Waits in C, without end and whatever signals come, as for the answer to a look-up of a name.
IN_C = """
mutex = ctypes.create_string_buffer(128)
ctypes.CDLL(None).pthread_mutex_lock(mutex)
try:
    print("ready", flush=True)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
except KeyboardInterrupt:  # it came before that
    sys.exit(3)
"""
# A thread that is waited for at the end, as those of a client's pool.
AT_THE_END = """
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(3)
"""
ELSEWHERE = """
with handled_here():
    signal.signal(signal.SIGINT, lambda number, frame: None)
    print("ready", flush=True)
    time.sleep(1)
sys.exit(7)
"""


def program(waits: str, daemon: bool) -> str:
    return f"""
import ctypes, signal, sys, threading, time
from launcher.commands import interrupts
from launcher.commands.interrupts import handled_here, watch_interrupts
interrupts.GRACE = 0.1
watch_interrupts()
threading.Thread(target=time.sleep, args=(600,), daemon={daemon}).start()
{waits}
"""


@pytest.mark.parametrize(
    "waits, daemon, code",
    [(IN_C, True, CANCELLED), (AT_THE_END, False, CANCELLED), (ELSEWHERE, True, 7)],
)
def test_a_command_that_hangs_is_ended(waits: str, daemon: bool, code: int) -> None:
    command = [sys.executable, "-c", program(waits, daemon)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(PATIENCE) == code
        finally:
            process.kill()


COMMAND = """
import sys, threading, time, typer
from launcher import cli
@cli.app.command()
def fails() -> None:
    threading.Thread(target=time.sleep, args=(600,)).start()
    typer.echo("why")
    raise typer.Exit(1)
sys.argv[1:] = ["fails"]
cli.main()
"""


def test_a_command_that_has_failed_waits_for_no_thread_of_a_client() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", COMMAND], env=env, stdout=subprocess.PIPE) as one:
        try:
            said, _ = one.communicate(timeout=PATIENCE)
            assert (one.returncode, said) == (1, b"why\n")
        finally:
            one.kill()


@contextmanager
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=99) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    yield url


@contextmanager
def unknown() -> Iterator[str]:
    yield "http://nowhere.invalid"


@pytest.mark.parametrize(
    "storage, command", [(silent, "status"), (refusing, "attach"), (unknown, "cancel")]
)
def test_a_bucket_that_cannot_be_reached_is_said_and_ctrl_c_acts(
    storage: Callable[[], AbstractContextManager[str]], command: str, tmp_path: Path
) -> None:
    with storage() as url:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SWELL_HOME": str(tmp_path),
            "STORAGE_EMULATOR_HOST": url,
        }
        asked = [sys.executable, "-m", "launcher.cli", command, "gs://b/runs/one"]
        with subprocess.Popen(asked, env=env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said == (
                "swell: gs://b/runs/one has not answered for 5 s; trying for 55 s more\n"
            )
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(PATIENCE) == CANCELLED
            finally:
                process.kill()
