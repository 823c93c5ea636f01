"""Ctrl-C ends a command at once, also where Python's own handlers do not run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from launcher.emulator.state import whereabouts
from launcher.run_states import CANCELLED, FAILED
from tests.integration.command import ROOT
from tests.launcher.emulator.running import Emulator
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
        asked = [sys.executable, "-m", "launcher.cli", command, "gs://bucket-b/runs/one"]
        with subprocess.Popen(asked, env=env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said == (
                "swell: gs://bucket-b/runs/one has not answered for 5 s; trying for 55 s more\n"
            )
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(PATIENCE) == CANCELLED
            finally:
                process.kill()


JOB = """
name: j
project: p
regions: [us-central1]
output: gs://bucket/runs
module: my.train
container: an-image
pools: [a2-highgpu-1g]
"""


def key_file(folder: Path, token_uri: str) -> Path:
    """The key of a service account whose tokens come from ``token_uri``."""
    key = rsa.generate_private_key(65537, 2048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    about = {"type": "service_account", "client_email": "a@p.iam.gserviceaccount.com"}
    path = folder / "key.json"
    path.write_text(json.dumps({**about, "private_key": text, "token_uri": token_uri}))
    return path


@contextmanager
def launched(folder: Path, storage: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A launch on Vertex AI, with what is in ``env``."""
    (folder / "job.yaml").write_text(JOB)
    own = {"PYTHONPATH": str(ROOT), "SWELL_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "launcher.cli", "launch", "job.yaml", "--target", "vertex"]
    with subprocess.Popen(
        [*command, "--run-id", "one"],
        cwd=folder,
        env={**os.environ, **own, "STORAGE_EMULATOR_HOST": storage, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as launch:
        try:
            yield launch
        finally:
            launch.kill()


def test_an_api_that_hangs_when_a_run_is_submitted_is_said_and_can_be_left(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path / "state", "--until-eof")
    try:
        where = whereabouts(emulator.state)
        assert where is not None
        made = httpx.post(f"{where.storage}/storage/v1/b?project=p", json={"name": "bucket"})
        assert made.status_code == 200
        with (
            silent() as url,
            launched(tmp_path, where.storage, SWELL_VERTEX_ENDPOINT=url) as launch,
        ):
            until_said(launch, f"{url} has not taken attempt 1 for 5 s; trying for 115 s more")
            launch.send_signal(signal.SIGINT)
            until_said(launch, "waiting for the end of its machines")
            launch.send_signal(signal.SIGINT)
            until_said(launch, "which may still go on; swell cancel one ends it")
            assert launch.wait(PATIENCE) == FAILED
    finally:
        assert emulator.stop() == 0


def test_where_credentials_come_from_may_hang_in_its_handshake(tmp_path: Path) -> None:
    with silent() as url:
        key = key_file(tmp_path, url.replace("http:", "https:"))
        with launched(tmp_path, url, GOOGLE_APPLICATION_CREDENTIALS=str(key)) as launch:
            until_said(launch, "gs://bucket/runs/one has not answered for 5 s; trying for 55 s")
            launch.send_signal(signal.SIGINT)
            assert launch.wait(PATIENCE) == CANCELLED


def until_said(launch: subprocess.Popen[str], text: str) -> None:
    assert launch.stdout is not None
    said = ""
    for line in launch.stdout:
        said += line
        if text in line:
            return
    raise AssertionError(f"{text!r} is not in {said!r}")
