"""A really started emulator, and a few words to say what jobs do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from launcher.emulator.vms import netns

PARENT = "/v1/projects/local/locations/local/customJobs"
PATIENCE = 600.0  # seconds; only a test that fails waits so long
T = TypeVar("T")


def wait_for(look: Callable[[], T], accept: Callable[[T], bool] = bool) -> T:
    """Returns what ``look`` sees as soon as ``accept`` likes it."""
    deadline = time.monotonic() + PATIENCE
    while not accept(seen := look()):
        assert time.monotonic() < deadline, f"still waiting; last seen: {seen!r}"
        time.sleep(0.02)
    return seen


def abandoned(names: set[str]) -> set[str]:
    """Those of a network's parts that nobody holds; tests beside this one have networks, too."""
    ownerless = set()
    for number in {netns.number_of(name) for name in names}:
        assert number is not None
        if claim := netns.claim(number):
            claim.close()
            ownerless.add(number)
    return {name for name in names if netns.number_of(name) in ownerless}


def pool(script: str, replicas: int = 1, **container: Any) -> dict[str, Any]:
    """A worker pool whose VMs run a shell script."""
    return {
        "machineSpec": {"machineType": "a2-highgpu-1g"},
        "replicaCount": str(replicas),
        "containerSpec": {
            "imageUri": "an-image",
            "command": ["sh", "-c"],
            "args": [script],
            **container,
        },
    }


def _new_mark() -> str:
    """A variable that is passed to every job, so that its processes can be recognised."""
    return f"MARK={uuid.uuid4().hex}"


class Emulator:
    """One emulator process, and a client for it."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        self.mark = _new_mark()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launcher.emulator", "--state", str(state), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the emulator ended with {self.process.wait()}"
        self.endpoint: str = json.loads(line)["endpoint"]
        self.token = (state / "token").read_text()
        self.bearer = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=self.endpoint, headers=self.bearer, timeout=PATIENCE)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One test's turn: at its end all jobs and their logs are gone, and all their processes."""
        self.mark = _new_mark()
        try:
            yield
        finally:
            for file in (self.state / "jobs").glob("*.json"):
                name = json.loads(file.read_text())["name"]
                assert self.http.delete(f"/v1/{name}").status_code == 200
            shutil.rmtree(self.state / "logs")
            (self.state / "logs").mkdir()
            # What has left its VM is killed when the emulator ends.
            left = self.processes()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert left == []

    def create(self, *pools: dict[str, Any], **spec: Any) -> str:
        """Creates a job. Returns its path in the API."""
        for each in filter(None, pools):
            name, _, value = self.mark.partition("=")
            env = each["containerSpec"].setdefault("env", [])
            env.append({"name": name, "value": value})
        body = {"displayName": "a job", "jobSpec": {"workerPoolSpecs": list(pools), **spec}}
        answer = self.http.post(PARENT, json=body)
        assert answer.status_code == 200, answer.text
        return f"/v1/{answer.json()['name']}"

    def get(self, job: str) -> dict[str, Any]:
        """The job."""
        answer: dict[str, Any] = self.http.get(job).json()
        return answer

    def until(self, job: str, *states: str) -> dict[str, Any]:
        """Waits for one of the states. Returns the job."""
        wanted = [f"JOB_STATE_{state}" for state in states]
        return wait_for(lambda: self.get(job), lambda seen: seen["state"] in wanted)

    def replicas(self, job: str) -> dict[str, dict[str, Any]]:
        """The emulator's view of the replicas, by name."""
        listed = self.http.get(f"/emulator{job}/replicas").json()
        return {replica["replica"]: replica for replica in listed}

    def until_replica(self, job: str, name: str, state: str) -> dict[str, Any]:
        """Waits for a replica's state. Returns the replica."""
        return wait_for(lambda: self.replicas(job)[name], lambda replica: replica["state"] == state)

    def act(self, job: str, name: str, verb: str, **body: Any) -> None:
        """Preempts or restores a replica. It may have printed before it counts as running."""
        if verb == "preempt":
            self.until(job, "RUNNING")
            self.until_replica(job, name, "RUNNING")
        answer = self.ask(job, name, verb, **body)
        assert answer.status_code == 200, answer.text

    def ask(self, job: str, name: str, verb: str, **body: Any) -> httpx.Response:
        """What the emulator answers to whoever would preempt or restore a replica."""
        return self.http.post(f"/emulator{job}/replicas/{name}:{verb}", json=body)

    def output(self, job: str, replica: str) -> list[str]:
        """What a replica has printed, without the times."""
        log = self.state / "logs" / job.rpartition("/")[2] / f"{replica}.jsonl"
        # The last line may be half written.
        lines = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        return [json.loads(line)["message"] for line in lines]

    def until_output(self, job: str, replica: str, line: str, times: int = 1) -> None:
        """Waits until a replica has printed a line."""
        wait_for(lambda: self.output(job, replica), lambda lines: lines.count(line) >= times)

    def processes(self) -> list[int]:
        """The living processes of this emulator's jobs."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is(pid)]

    def _is(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()  # empty for a dead one
        except OSError:
            return False
        return self.mark.encode() in environment.split(b"\0")

    def stop(self, how: int | None = None) -> int:
        """Ends the emulator, by signal or by closing its input. Returns its exit code."""
        assert self.process.stdin and self.process.stdout
        if how is not None:
            self.process.send_signal(how)
        self.process.stdin.close()
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.http.close()
        return code
