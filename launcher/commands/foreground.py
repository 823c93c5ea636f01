"""What the commands do while a person waits: follow a launch, or leave it in the background."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from launcher import home
from launcher.commands.errors import BAD_INPUT
from launcher.job.spec import Job, Target
from launcher.job.targets import output_of
from launcher.local.emulator import LocalError, Replicas, child_environment
from launcher.run import LaunchError, Run, attach, launch
from launcher.status.status import ABANDONED, Outcome, is_abandoned, read_status
from launcher.supervision.attempt import read_attempts
from launcher.views.live import LiveView, PlainView, Story, View
from launcher.views.summary import print_summary
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader

LOOK_EVERY = 0.25  # seconds
REMOTE_LOOKS = 20  # as many times more seldom on an object store, where each look is a request
DETACH_LIMIT = 60.0
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stops:
    """Counts requests to stop: Ctrl-C, SIGTERM, and SIGHUP where it is not ignored."""

    def __init__(self) -> None:
        self.count = 0
        self.interrupt = True  # whether the second one ends what is being done

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 2 and self.interrupt:
            raise KeyboardInterrupt


@contextmanager
def _stops() -> Iterator[_Stops]:
    stops = _Stops()
    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:
            signal.signal(number, stops)
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch_and_follow(job: Job, target: Target, run_id: str | None, as_json: bool) -> str:
    """Launches ``job`` and shows it until its end. Returns the state it ended in.

    Raises what ``launch`` raises.
    """
    console = Console(stderr=as_json, highlight=False)
    with _stops() as stops:
        started = time.time()
        run = launch(job, target, run_id)
        return _see(run, job, console, stops, started, as_json)


def attach_and_follow(directory: RunDirectory, as_json: bool) -> str:
    """Goes on with a run and shows it until its end. Returns the state it ended in.

    Raises what ``attach`` raises.
    """
    console = Console(stderr=as_json, highlight=False)
    with _stops() as stops:
        record = directory.run()
        run = attach(directory)
        job = Job.model_validate(record["spec"])
        return _see(run, job, console, stops, float(record["created"]), as_json)


def _see(run: Run, job: Job, console: Console, stops: _Stops, started: float, as_json: bool) -> str:
    stops.interrupt = False  # _follow cancels the run before it abandons it
    target = run.directory.run().get("target")
    with _view(console, Story(run.id, job.replicas(), started)) as view:
        view.say(f"run {run.id} ({target}) in {run.directory.url}")
        outcome = _follow(run, view, stops)
    status = read_status(run.directory)
    print_summary(console, status, run.directory.url, time.time() - started)
    if as_json:
        print(json.dumps(status, indent=2))
    return outcome.state


def _view(console: Console, story: Story) -> LiveView | PlainView:
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console, story)
    return PlainView(lambda line: print(line, file=console.file, flush=True), story)


def _follow(run: Run, view: View, stops: _Stops) -> Outcome:
    reader, cancelled = EventReader(run.directory), False
    looks = 1 if run.directory.store.is_local else REMOTE_LOOKS
    turn = 0
    while True:
        if stops.count and not cancelled:
            cancelled = True
            view.say("cancelling the run; to leave one going, start it with: swell launch --detach")
            run.cancel("cancelled by Ctrl-C or a signal")
        if stops.count > 1:
            run.abandon()
        ended = run.ended  # before the look: what is written last is then seen, too
        if ended or turn % looks == 0:
            attempts, outcome = read_attempts(run.directory), run.directory.outcome()
            view.update(
                reader.read_new(),
                attempts[-1] if attempts else {},
                Outcome.of(outcome) if outcome else None,
            )
        if ended:
            return run.wait()
        time.sleep(LOOK_EVERY)
        turn += 1


def launch_detached(
    job: Job, path: str, target: Target, run_id: str | None, overrides: Sequence[str]
) -> str:
    """Starts ``swell launch`` in the background. Returns the run's id once it is submitted.

    Raises LaunchError for what the user can mend, RunError for an id that is taken, LocalError when
    the launch did not get so far.
    """
    run_id = run_id or home.new_id(job.name, time.time())
    home.check_id(run_id)
    directory = home.directory_for(run_id, output_of(job, target), target)
    home.require_new(run_id, directory)
    folder = home.local_folder(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    command = ["-m", "launcher.cli", "launch", path, "--target", target, "--run-id", run_id]
    with (folder / "launch.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, *command, *(part for o in overrides for part in ("--set", o))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )
    try:
        _await_start(child, directory, folder / "launch.log")
    except KeyboardInterrupt:
        child.terminate()  # the launch cancels the run
        raise
    return run_id


def _await_start(child: subprocess.Popen[bytes], directory: RunDirectory, log: Path) -> None:
    """Returns when the run is submitted, or has ended already."""
    deadline = time.monotonic() + DETACH_LIMIT
    while time.monotonic() < deadline:
        code = child.poll()
        if directory.outcome() or any(attempt["job"] for attempt in read_attempts(directory)):
            return
        if code is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            said = "\n".join(line.removeprefix("swell: ") for line in lines)
            raise (LaunchError if code == BAD_INPUT else LocalError)(
                said or "the launch ended at once"
            )
        time.sleep(0.05)
    raise LocalError(f"the run has not started yet; see {log}")


def local_replicas(directory: RunDirectory, replica: str) -> Replicas:
    """Returns the VMs of a local run that is going, after checking that it has ``replica``.

    Raises RunError.
    """
    run = directory.run()
    run_id = str(run["id"])
    if run.get("target") != "local":
        raise home.RunError(
            f"{run_id}: runs on Vertex AI, where the Spot market preempts by itself"
        )
    home.require_replica(run, replica)
    if outcome := directory.outcome():
        raise home.RunError(f"{run_id}: has ended: {outcome.get('state')}")
    if is_abandoned(run):
        raise home.RunError(f"{run_id}: {ABANDONED}")
    for attempt in reversed(read_attempts(directory)):
        if attempt.get("job"):
            return Replicas(str(attempt["endpoint"]), str(attempt["job"]))
    raise home.RunError(f"{run_id}: has no VMs yet; try again in a moment")
