"""A run that its controller looks after: nobody else is needed, and nobody but it acts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from launcher.local.emulator import Replicas
from launcher.supervision.attendance import read_attendants
from tests.httpserver import LocalServer
from tests.integration.command import until
from tests.integration.scripted import ScriptedSwell
from trainer.rundir.attempts import ENDED
from trainer.rundir.directory import RunDirectory

SECRET = "services/T0123/neverseen"


class Hook(LocalServer):
    """A webhook that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(Handler)
        self.url += f"/{SECRET}"

    @property
    def news(self) -> list[str]:
        return [one["news"] for one in self.told]


@pytest.fixture
def swell(tmp_path: Path) -> Iterator[ScriptedSwell]:
    swell = ScriptedSwell(tmp_path)
    yield swell
    swell.close()


def job(swell: ScriptedSwell, more: str) -> str:
    path = Path(swell.job("wait"))
    path.write_text(path.read_text() + more)
    return str(path)


def controllers(swell: ScriptedSwell, run: str) -> list[int]:
    """Which controller each attendant of a run is, in order; those of launches are 0."""
    attendants = read_attendants(RunDirectory(str(swell.run_dir(run))))
    return [it.controller for it in attendants.values()]


def of_controller(swell: ScriptedSwell, number: int) -> Replicas:
    return Replicas.of_state(swell.state("one"), str(record(swell, number)["job"]))


def record(swell: ScriptedSwell, number: int) -> dict[str, Any]:
    path = swell.run_dir("one") / f"controllers/{number:04d}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def api_of_vm(pid: int, token: str = "") -> int:
    """What the emulator's API answers a VM at the port of its metadata server: the status."""
    text = Path(f"/proc/{pid}/environ").read_text()
    env = dict(one.split("=", 1) for one in text.split("\0") if "=" in one)
    url = f"http://{env['GCE_METADATA_HOST']}/v1/projects/local/locations/local/customJobs"
    shown = token or env.get("SWELL_EMULATOR_API_TOKEN", "")
    try:
        with urlopen(Request(url, headers={"Authorization": f"Bearer {shown}"})) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def files(folder: Path) -> Iterator[bytes]:
    """Everything in a run directory, but for what is this machine's alone."""
    for path in folder.rglob("*"):
        if path.is_file() and "local" not in path.relative_to(folder).parts:
            yield path.read_bytes()


def test_it_goes_on_where_the_launch_was_killed_and_so_does_its_next_life(
    swell: ScriptedSwell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost job is replaced, the limit holds, the webhook hears of all; and nobody of that."""
    with Hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        path = job(
            swell,
            "notify: {url_env: HOOK}\n"
            "limits: {cost: 0.02 USD}\n"
            "resubmit: {pause: 1s}\n"
            "local: {market: {survivors: fail}}\n",
        )
        launch = swell.start("launch", path, "--run-id", "one", "--controller")
        until(lambda: swell.is_up("one"))
        launch.kill()
        launch.communicate()
        [vm] = of_controller(swell, 1).list()
        os.kill(vm["pid"], signal.SIGKILL)
        status = swell.status("one")
        first = Replicas.of_state(swell.state("one"), status["attempts"][0]["job"])
        first.preempt("workerpool1-0", "1s")
        monkeypatch.delenv("HOOK")
        assert api_of_vm(first.list()[0]["pid"]) == 404, "that is for controllers alone"
        until(lambda: controllers(swell, "one") == [1, 1], every=0.5)
        [vm] = of_controller(swell, 1).list()
        assert api_of_vm(vm["pid"]) == 200
        assert api_of_vm(vm["pid"], token="another") == 401
        assert status["state"] == "running" and status["reason"] is None, status["reason"]
        assert [it["controller"] for it in status["attended"]] == [1]
        listed = json.loads(swell("runs", "--json").stdout)
        assert [it["controller"] for it in listed[0]["attended"]] == [1]
        said = swell("status", "one").stdout
        assert "by controller 1, since " in said
        key = (swell.state("one") / "key").read_text()
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in swell.processes()]
        kept = [*files(swell.run_dir("one")), *commands, said.encode()]
        assert not [it for it in kept if SECRET.encode() in it or key.encode() in it]

        until(lambda: (swell.run_dir("one") / "outcome.json").exists())
        until(lambda: "end" in hook.news)
    status = swell.status("one")
    assert status["state"] == "limited" and "limits.cost: 0.02 USD are spent" in status["reason"]
    assert [it["state"] for it in status["attempts"]] == ["FAILED", "SUCCEEDED"]
    assert hook.news == ["stockout", "failover", "end"]
    assert status["spent"]["usd"] >= 0.02


@pytest.mark.soak
def test_it_is_started_again_and_replaced_before_its_timeout(swell: ScriptedSwell) -> None:
    """What it is entrusted with comes by Secret Manager."""
    secret = "token_secret: projects/local/secrets/swell\n"
    path = job(swell, f"controller: {{timeout: 50s}}\n{secret}")
    answer = swell("launch", path, "--run-id", "one", "--detach")
    assert answer.returncode == 0, answer.stderr
    assert "run one goes on with its controller" in answer.stdout
    until(lambda: swell.is_up("one"))
    before = swell.vms("one")
    [vm] = of_controller(swell, 1).list()
    os.kill(vm["pid"], signal.SIGKILL)
    until(lambda: 2 in controllers(swell, "one"), every=0.5)
    assert controllers(swell, "one") == [1, 1, 2]
    until(lambda: record(swell, 1)["state"] in ENDED, every=0.5)
    until(lambda: [it["controller"] for it in swell.status("one")["attended"]] == [2], every=1.0)
    assert swell.vms("one") == before, "nothing has happened to the run"
    assert len(swell.status("one")["attempts"]) == 1
    answer = swell("cancel", "one")
    assert answer.returncode == 0, answer.stderr
    assert swell.nothing_is_left()
    status = swell.status("one")
    assert status["state"] == "cancelled"
    assert status["controllers"][-1]["state"] == "SUCCEEDED"


@pytest.mark.soak
def test_a_launch_looks_on_until_nothing_is_left(swell: ScriptedSwell) -> None:
    path = job(swell, "controller: true\n")
    launch = swell.start("launch", path, "--run-id", "one")
    until(lambda: swell.is_up("one"))
    RunDirectory(str(swell.run_dir("one"))).end("succeeded", "training is complete")
    said, _ = launch.communicate(timeout=600)
    assert launch.returncode == 0, said
    assert controllers(swell, "one") == [1]
    assert swell.nothing_is_left()
