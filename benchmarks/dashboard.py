"""How quickly ``swell dashboard`` answers, of a run of 1,000 replicas and 100,000 events.

The run goes on: it is on a disk, and an event comes every tenth of a second while it is looked at.
The dashboard is a process of its own, as the command starts it.

- ``answers``: seconds until the whole of an answer is there, each over a connection of its own,
  while the dashboard reads and draws by itself: each again and again, a third of a second apart. Of
  news, until the first are there.
- ``processor``: what an answer costs all of the dashboard's threads, of a run that is over, of
  which everything has been read and drawn.
- ``first``: seconds until an answer that is the first of its dashboard, which has read nothing.
- ``known``: how long it takes from then on until the run's page has its figures, and its last
  picture, in seconds and in those of a processor.
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import psutil

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
        self.run_dir = run_dir
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


PLANNED = urlencode({"name": "crowd", "task": "m:C", "pools.0.machine": "a2-highgpu-1g"})
# What is asked for, by name: a path, and what is sent along, if anything.
ROUTES: dict[str, tuple[str, str | None]] = {
    "all runs": ("", None),
    "their news": ("live", None),
    "the run": ("runs/crowd", None),
    "its news": ("runs/crowd/live", None),
    "a replica": ("runs/crowd/replica?name=workerpool1-7", None),
    "a replica's news": ("runs/crowd/replica/live?name=workerpool1-7", None),
    "the logs": ("runs/crowd/logs", None),
    "the logs' news": ("runs/crowd/logs/live", None),
    "whether to cancel": ("runs/crowd/cancel", None),
    "whether to take a VM away": ("runs/crowd/preempt?name=workerpool1-7", None),
    "a job's form": ("new", None),
    "a job's plan": ("new?part=plan", PLANNED),
    "its style": ("static/dashboard.css", None),
}


@contextmanager
def crowded(options: Options, goes_on: bool = True) -> Iterator[str]:
    """Yields a folder with such a run in it."""
    sizes = (QUICK_REPLICAS, QUICK_EVENTS) if options.quick else (REPLICAS, EVENTS)
    with tempfile.TemporaryDirectory(prefix="swell-dashboard-") as folder:
        crowd = Crowd(RunDirectory(f"{folder}/crowd"), *sizes)
        if not goes_on:
            crowd.run_dir.end("succeeded", "training is complete")
            yield folder
            return
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(0.1):
                crowd.go_on(flush=True)

        going = threading.Thread(target=go_on)
        going.start()
        try:
            yield folder
        finally:
            over.set()
            going.join()


class Asked:
    """A dashboard, as the command starts it.

    Args:
        folder: what it shows.
    """

    def __init__(self, folder: str) -> None:
        environment = {**os.environ, "SWELL_HOME": f"{folder}/home", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "launcher.cli", "dashboard", folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self._where = urlsplit(self._process.stdout.readline().strip())

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def used(self) -> float:
        """Seconds of a processor that it has taken."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def ask(self, name: str) -> tuple[float, str]:
        """Returns how long an answer took, in seconds, and the answer."""
        path, sent = ROUTES[name]
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self._where.netloc, timeout=LATE)
        headers = {"Origin": f"http://{self._where.netloc}"} if sent else {}
        method = "POST" if sent else "GET"
        connection.request(method, f"{self._where.path}{path}", sent, headers)
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            text = b"".join(iter(answer.readline, b"\n")).decode()
        else:
            text = answer.read().decode()
        took = time.perf_counter() - began
        connection.close()
        assert answer.status == 200, (answer.status, path)
        return took, text

    def until(self, part: str) -> None:
        """Waits for a part of the run's page."""
        deadline = time.monotonic() + LATE
        while True:
            _, text = self.ask("the run")
            begun = text.partition(f'<div id="{part}">')[2]
            if begun and not begun.startswith(("</div>", "<p>Being read")):
                return
            assert time.monotonic() < deadline, json.dumps(text[:2000])
            time.sleep(0.05)

    def know_all(self) -> None:
        """Lets it read and draw everything."""
        self.until("drawn")
        for name in ROUTES:
            self.ask(name)


def answers(options: Options) -> Iterable[Row]:
    """Each answer, while all pages are kept up to date."""
    with crowded(options) as folder, Asked(folder) as dashboard:
        dashboard.know_all()
        for name in ROUTES:
            took = []
            for _ in range(QUICK_ASKED if options.quick else ASKED):
                time.sleep(APART)
                took.append(dashboard.ask(name)[0])
            yield Row.of("swell", "answers", name, "s", took)


def processor(options: Options) -> Iterable[Row]:
    """What each answer costs, where nothing else is to be done."""
    asked = 10 if options.quick else 100  # in one go: a processor's clock ticks in hundredths
    with crowded(options, goes_on=False) as folder, Asked(folder) as dashboard:
        dashboard.know_all()
        for name in ROUTES:
            took = []
            for _ in range(1 if options.quick else 5):
                before = dashboard.used
                for _ in range(asked):
                    dashboard.ask(name)
                took.append((dashboard.used - before) / asked)
            yield Row.of("swell", "processor", name, "s", took)


def first(options: Options) -> Iterable[Row]:
    """Each answer, where it is the first one."""
    with crowded(options) as folder:
        for name in ROUTES:
            took = []
            for _ in range(options.runs):
                with Asked(folder) as dashboard:
                    took.append(dashboard.ask(name)[0])
            yield Row.of("swell", "first", name, "s", took)


def known(options: Options) -> Iterable[Row]:
    """The run's page, of which nothing is known yet."""
    parts = {"facts": "figures", "drawn": "the last picture"}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in parts.values()}
    for _ in range(options.runs):
        with crowded(options) as folder, Asked(folder) as dashboard:
            began, used = time.perf_counter(), dashboard.used
            for part, name in parts.items():
                dashboard.until(part)
                found[name].append((time.perf_counter() - began, dashboard.used - used))
    for name, took in found.items():
        yield Row.of("swell", "known", name, "s", [seconds for seconds, _ in took])
        yield Row.of("swell", "known", f"{name}, of a processor", "s", [used for _, used in took])


if __name__ == "__main__":
    cases = {"answers": answers, "processor": processor, "first": first, "known": known}
    sys.exit(benchmark(__doc__, cases, runs=3))
