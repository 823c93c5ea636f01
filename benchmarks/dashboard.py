"""How quickly ``swell dashboard`` answers, of a run of 1,000 replicas and 100,000 events.

The run goes on: it is on a disk, and an event comes every tenth of a second while it is looked at.
The dashboard is a process of its own, as the command starts it.

- ``answers``: seconds until the whole of a page is there, each over a connection of its own, while
  the dashboard reads and draws by itself: each page again and again, a third of a second apart.
- ``first``: the same of the run's page when nothing of it has been read; and how long it takes
  until its figures are in it, and its last picture.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from launcher.supervision.attempt import Attempt
from rows import Options, Row, benchmark
from trainer.rundir import formats
from trainer.rundir.attempts import record_name
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import RUN

ROOT = Path(__file__).parents[1]
REPLICAS, QUICK_REPLICAS = 1_000, 50
EVENTS, QUICK_EVENTS = 100_000, 2_000
ASKED, QUICK_ASKED = 60, 5  # times that each page is asked for
APART = 0.3  # seconds
WORLD = 400  # steps of one world
LATE = 600.0  # seconds; only a failure takes as long


class Crowd:
    """The run: its replicas come, and then go and come back one by one.

    Args:
        run_dir: where to.
        replicas: how many.
        events: how many events, about.
    """

    def __init__(self, run_dir: RunDirectory, replicas: int, events: int) -> None:
        self.members = [f"workerpool1-{number}" for number in range(replicas - 1)]
        self.members.insert(0, "workerpool0-0")
        self.now = time.time() - 3 * 86_400
        self._writer = EventWriter(run_dir, "leader-000001", lambda: self.now)
        self._step, self._generation = 0, 0
        pools: list[dict[str, object]] = [{"machine": "a2-highgpu-1g"}]
        pools += [{"machine": "a2-highgpu-1g", "replicas": replicas - 1}] if replicas > 1 else []
        spec = {"name": "crowd", "task": "m:C", "project": "p", "regions": ["us-central1"]}
        run = {"id": "crowd", "target": "vertex", "created": self.now, "by": "me", "settings": {}}
        run_dir.write_json(RUN, {**run, "spec": {**spec, "pools": pools}, **formats.RUN.stamp()})
        attempt = Attempt(1, "us-central1", "x", "us-central1", "j", "RUNNING", created=self.now)
        run_dir.write_json(record_name(1), attempt.to_json())
        usd = {"usd_per_hour": 1.5 * replicas, "on_demand": 3.7 * replicas}
        counts = {"replicas": replicas, "wanted": replicas}
        self._say("attempt_started", attempt=1, job="j", region="us-central1", **counts, **usd)
        for member in self.members:
            self._say("member_joined", member=member, slots=1, age=60.0, incarnation="a", term=1)
            self._say("member_ready", member=member)
        for _ in range(events - 2 * replicas):
            self.go_on()
        self._writer.flush()

    def go_on(self, flush: bool = False) -> None:
        """One more event."""
        self._step += 1
        if self._step % WORLD == 1:
            self._form()
        self.now = min(self.now + 2.5, time.time())
        told = {"loss": [1.0 / self._step], "accuracy": [1 - 1.0 / self._step]}
        fields = {"generation": self._generation, "samples": 4096, "seconds": 2.5, "age": 0.0}
        self._say("steps", first=self._step, count=1, metrics=told, total_steps=10**6, **fields)
        if self._step % 300 == 0:
            self._say("checkpoint_committed", step=self._step, bytes=10**10, seconds=8.5)
        if flush:
            self._writer.flush()

    def _form(self) -> None:
        self._generation += 1
        member, term = self.members[self._generation % len(self.members)], 1
        if self._generation > 1:
            self._say("drain", member=member, reason="notice", deadline_seconds=30.0)
        cause = "drain" if self._generation > 1 else "start"
        formed = {"generation": self._generation, "cause": cause, "term": term}
        everybody = self.members
        self._say("generation_formed", world_size=len(everybody), members=everybody, **formed)
        self.now += 5.0
        self._say("resumed", world_size=len(everybody), step=self._step - 1, seconds=5.0, **formed)

    def _say(self, event: str, **fields: object) -> None:
        self._writer.emit(event, **fields)


@contextmanager
def served(options: Options) -> Iterator[Callable[[str], tuple[float, str]]]:
    """A dashboard of such a run, which goes on. Yields what asks for a page: seconds, and text."""
    sizes = (QUICK_REPLICAS, QUICK_EVENTS) if options.quick else (REPLICAS, EVENTS)
    with tempfile.TemporaryDirectory(prefix="swell-dashboard-") as name:
        crowd = Crowd(RunDirectory(f"{name}/crowd"), *sizes)
        environment = {**os.environ, "SWELL_HOME": f"{name}/home", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "launcher.cli", "dashboard", name]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(0.1):
                crowd.go_on(flush=True)

        going = threading.Thread(target=go_on)
        going.start()
        try:
            assert process.stdout is not None
            where = urlsplit(process.stdout.readline().strip())

            def ask(path: str) -> tuple[float, str]:
                began = time.perf_counter()
                connection = http.client.HTTPConnection(where.netloc, timeout=LATE)
                connection.request("GET", f"{where.path}{path}")
                answer = connection.getresponse()
                text = answer.read().decode()
                took = time.perf_counter() - began
                connection.close()
                assert answer.status == 200, (answer.status, path)
                return took, text

            yield ask
        finally:
            over.set()
            going.join()
            process.terminate()
            process.wait()


PAGES = {
    "all runs": "",
    "the run": "runs/crowd",
    "a replica": "runs/crowd/replica?name=workerpool1-7",
    "its logs": "runs/crowd/logs",
    "a job's form": "new",
}


def answers(options: Options) -> Iterable[Row]:
    """Each page, while all of them are kept up to date."""
    with served(options) as ask:
        _until(ask, "drawn")
        for path in PAGES.values():
            ask(path)
        for name, path in PAGES.items():
            took = []
            for _ in range(QUICK_ASKED if options.quick else ASKED):
                time.sleep(APART)
                took.append(ask(path)[0])
            yield Row.of("swell", "answers", name, "s", took)


def first(options: Options) -> Iterable[Row]:
    """The run's page, of which nothing is known yet."""
    found: dict[str, list[float]] = {"an answer": [], "figures": [], "the last picture": []}
    for _ in range(1 if options.quick else 3):
        with served(options) as ask:
            began = time.perf_counter()
            found["an answer"].append(ask(PAGES["the run"])[0])
            _until(ask, "facts")
            found["figures"].append(time.perf_counter() - began)
            _until(ask, "drawn")
            found["the last picture"].append(time.perf_counter() - began)
    for name, took in found.items():
        yield Row.of("swell", "first", name, "s", took)


def _until(ask: Callable[[str], tuple[float, str]], part: str) -> None:
    """Waits for a part of the run's page."""
    deadline = time.monotonic() + LATE
    while True:
        _, text = ask(PAGES["the run"])
        begun = text.partition(f'<div id="{part}">')[2]
        if begun and not begun.startswith(("</div>", "<p>Being read")):
            return
        assert time.monotonic() < deadline, json.dumps(text[:2000])
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(benchmark(__doc__, {"answers": answers, "first": first}, runs=1))
