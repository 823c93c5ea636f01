"""An emulator that is told to stop leaves nothing behind; test_killed has the other kind of end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.responses import JSONResponse

from launcher.emulator import __main__ as command
from tests.launcher.emulator.running import Emulator, pool

Start = Callable[..., Emulator]

# What is hard to end: deaf to SIGTERM, with children, in several process groups.
STUBBORN = "set -m; trap '' TERM; sleep 1000 & echo up; wait"


def listening(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def busy(emulator: Emulator) -> tuple[str, list[tuple[str, int]]]:
    """Gives an emulator a job of three VMs, one of them vanished. Returns it and all ports."""
    metadata = "echo $GCE_METADATA_HOST;"
    job = emulator.create(pool(metadata + STUBBORN), pool(metadata + STUBBORN, 2))
    names = ["workerpool0-0", "workerpool1-0", "workerpool1-1"]
    for name in names:
        emulator.until_output(job, name, "up")
    emulator.until(job, "RUNNING")
    emulator.act(job, "workerpool1-0", "preempt", silent=True)
    emulator.until_replica(job, "workerpool1-0", "VANISHED")
    served = [emulator.output(job, name)[0] for name in names]
    served.append(emulator.endpoint.removeprefix("http://"))
    ports = [(address, int(port)) for address, _, port in (text.partition(":") for text in served)]
    assert len(emulator.processes()) >= 6
    assert all(listening(*port) for port in ports)
    return job, ports


@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_when_it_is_told_to_stop(start: Start, how: int | None) -> None:
    emulator = start()
    _, ports = busy(emulator)
    assert emulator.stop(how) == 0
    assert emulator.processes() == []
    assert not any(listening(*port) for port in ports)


def test_nothing_is_left_when_it_is_stopped_while_a_job_is_being_cancelled(start: Start) -> None:
    emulator = start()
    job, _ = busy(emulator)
    emulator.http.post(f"{job}:cancel")
    assert emulator.stop() == 0
    assert emulator.processes() == []
    assert start().get(job)["state"] == "JOB_STATE_CANCELLED"


def test_jobs_outlive_the_emulator_but_their_vms_do_not(start: Start) -> None:
    emulator = start()
    done = emulator.create(pool("echo done"))
    emulator.until(done, "SUCCEEDED")
    interrupted = emulator.create(pool("exec sleep 1000"))
    emulator.until(interrupted, "RUNNING")
    assert emulator.stop() == 0

    again = start()
    assert again.get(done)["state"] == "JOB_STATE_SUCCEEDED"
    lost = again.get(interrupted)
    assert lost["state"] == "JOB_STATE_FAILED"
    assert "emulator that ran this job was stopped" in lost["error"]["message"]
    assert again.replicas(interrupted) == {}
    assert again.http.post(f"{interrupted}:cancel").json()["error"]["code"] == 400
    assert again.http.delete(interrupted).status_code == 200
    assert again.create(pool("true")) > interrupted


def test_it_stops_by_itself_when_nothing_runs_and_nobody_asks() -> None:
    class Jobs:
        busy = True

    async def watched() -> None:
        jobs, used = Jobs(), command.Used(JSONResponse({}))
        idle = asyncio.create_task(command.until_idle(jobs, used, 0.05))
        await asyncio.sleep(0.5)
        assert not idle.done(), "a job runs"
        jobs.busy = False
        await idle
        transport = httpx.ASGITransport(used)
        async with httpx.AsyncClient(transport=transport, base_url="http://it") as client:
            before = used.at
            await client.get("/")
        assert used.at > before, "somebody has asked"

    asyncio.run(watched())


def test_two_emulators_at_once_give_their_vms_different_addresses(
    start: Start, tmp_path: Path
) -> None:
    addresses = []
    for name in ("one", "other"):
        emulator = start(state=tmp_path / name)
        job = emulator.create(pool("exec sleep 1000", 1), pool("exec sleep 1000", 3))
        emulator.until(job, "RUNNING")
        addresses += [replica["address"] for replica in emulator.replicas(job).values()]
    assert len(set(addresses)) == 8


def test_its_state_keeps_secrets_to_itself(emulator: Emulator) -> None:
    job = emulator.create(pool("true", env=[{"name": "SWELL_TOKEN", "value": "secret"}]))
    emulator.until(job, "SUCCEEDED")
    (file,) = (emulator.state / "jobs").iterdir()
    assert emulator.state.stat().st_mode & 0o077 == 0
    assert file.stat().st_mode & 0o077 == 0


def run(*options: str, stdin: int | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "launcher.emulator", *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=600, stdin=stdin)


def test_a_second_emulator_does_not_touch_a_state_directory_in_use(emulator: Emulator) -> None:
    second = run("--state", str(emulator.state))
    assert second.returncode == 2
    assert "is in use by another emulator" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_input_that_is_at_its_end_stops_it_at_once(tmp_path: Path) -> None:
    done = run("--state", str(tmp_path / "state"), "--until-eof", stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert json.loads(done.stdout)["endpoint"].startswith("http://127.0.0.1:")


def test_a_market_that_is_wrong_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    market = tmp_path / "market.json"
    market.write_text(json.dumps([{"at": "20s", "preempt": "worker-1"}]))
    assert command.main(["--state", str(tmp_path / "state"), "--market", str(market)]) == 2
    assert capsys.readouterr().err == (
        f"swell emulator: {market}:1: 0.preempt: 'worker-1' is not a replica; "
        "write one such as workerpool1-0 [SW1012]\n"
    )


def test_a_port_that_is_taken_is_refused_in_one_line(emulator: Emulator, tmp_path: Path) -> None:
    port = emulator.endpoint.rpartition(":")[2]
    refused = run("--state", str(tmp_path / "other"), "--port", port)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in refused.stderr


def test_it_listens_on_loopback_only(emulator: Emulator) -> None:
    _, ports = busy(emulator)
    assert all(address.startswith("127.") for address, _ in ports)
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes(emulator.process.pid):
            sockets.add(fields[1].partition(":")[0])
    assert sockets and all(address.endswith("7F") for address in sockets)


def inodes(pid: int) -> set[str]:
    links = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            continue
    return {link[8:-1] for link in links if link.startswith("socket:[")}
