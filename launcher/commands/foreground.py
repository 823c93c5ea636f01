"""What the commands do while a person waits: follow a launch, or leave it in the background."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher import home
from launcher.draft import Draft, LaunchError, create, ends_on_error, prepare
from launcher.job.job import Job, TargetName
from launcher.local.emulator import LocalError, Replicas, child_environment
from launcher.run import Run, attach, launch
from launcher.run_states import BAD_INPUT
from launcher.status.status import ABANDONED, Outcome, is_abandoned, read_status
from launcher.supervision.attempt import read_attempts
from launcher.terminal import visible
from launcher.views.live import LiveView, PlainView, Scene, View
from launcher.views.output import Screen
from launcher.views.summary import print_summary
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader
from trainer.rundir.usererror import Message

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


def launch_and_follow(job: Job, target: TargetName, run_id: str | None, as_json: bool) -> str:
    """Launches ``job`` and shows it until its end. Returns the state it ended in.

    Raises what ``launch`` raises.
    """
    console = Screen(sys.stderr if as_json else sys.stdout)
    with _stops() as stops:
        return _see(launch(job, target, run_id), console, stops, as_json)


def attach_and_follow(directory: RunDirectory, as_json: bool) -> str:
    """Goes on with a run and shows it until its end. Returns the state it ended in.

    Raises what ``attach`` raises.
    """
    console = Screen(sys.stderr if as_json else sys.stdout)
    with _stops() as stops:
        return _see(attach(directory), console, stops, as_json)


def _see(run: Run, console: Screen, stops: _Stops, as_json: bool) -> str:
    stops.interrupt = False  # _follow cancels the run before it abandons it
    record = home.read_run(run.directory)
    replicas, started = Job.model_validate(record["spec"]).replicas(), float(record["created"])
    with _view(console, Scene(run.id, replicas, started)) as view:
        view.show(f"run {run.id} ({record.get('target')}) in {run.directory.url}")
        outcome = _follow(run, view, stops)
    status = read_status(run.directory)
    print_summary(console, status, run.directory.url, time.time() - started)
    if as_json:
        print(json.dumps(status, indent=2))
    return outcome.state


def _view(console: Screen, scene: Scene) -> LiveView | PlainView:
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console, scene)
    return PlainView(lambda line: print(visible(line), file=console.file, flush=True), scene)


def _follow(run: Run, view: View, stops: _Stops) -> Outcome:
    reader, cancelled = EventReader(run.directory), False
    looks = 1 if run.directory.store.is_local else REMOTE_LOOKS
    turn = 0
    while True:
        if stops.count and not cancelled:
            cancelled = True
            view.show(
                "cancelling the run; to leave one going, start it with: swell launch --detach"
            )
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


def launch_detached(job: Job, target: TargetName, run_id: str | None) -> Draft:
    """Starts a run that a process in the background looks after. Returns it once it is submitted.

    Raises what ``launch`` raises, and LocalError when the background process does not get so far.
    """
    draft = prepare(job, target, run_id)
    log = home.local_folder(draft.run_id) / "launch.log"
    with home.launch_lock(draft.run_id) as lock:
        create(draft)
        with ends_on_error(draft.directory), log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "launcher.cli", "attach", draft.run_id],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**child_environment(), home.ENV_LOCK: str(lock)},
                pass_fds=[lock],
                start_new_session=True,
            )
    try:
        _await_start(child, draft.directory, log)
    except KeyboardInterrupt:
        draft.directory.end("cancelled", f"cancelled by {home.whoami()}")
        child.terminate()  # it may have to cancel a CustomJob
        raise
    return draft


def _await_start(child: subprocess.Popen[bytes], directory: RunDirectory, log: Path) -> None:
    """Returns when the run is submitted, or has ended already."""
    deadline = time.monotonic() + DETACH_LIMIT
    while time.monotonic() < deadline:
        code = child.poll()
        attempts = read_attempts(directory)
        if directory.outcome() or any(attempt["job"] for attempt in attempts):
            return
        if code is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            said = "\n".join(line.removeprefix("swell: ") for line in lines)
            ended = Message("", said) if said else Message("SW2017", "the launch ended at once")
            if not attempts:  # else a CustomJob may be there, which swell attach finds
                directory.end("failed", str(ended))
            raise (LaunchError if code == BAD_INPUT else LocalError).of([ended])
        time.sleep(0.05)
    raise LocalError("SW2018", f"the run has not started yet; see {log}")


def local_replicas(directory: RunDirectory, replica: str) -> Replicas:
    """Returns the VMs of a local run that is going, after checking that it has ``replica``.

    Raises RunError.
    """
    run = home.read_run(directory)
    run_id = str(run["id"])
    if run.get("target") != "local":
        raise home.RunError(
            "SW2010", f"{run_id}: runs on Vertex AI, where the Spot market preempts by itself"
        )
    home.require_replica(run, replica)
    if outcome := directory.outcome():
        raise home.RunError("SW2011", f"{run_id}: has ended: {outcome.get('state')}")
    if is_abandoned(run, directory):
        raise home.RunError("SW2012", f"{run_id}: {ABANDONED}")
    for attempt in reversed(read_attempts(directory)):
        if attempt.get("job"):
            return Replicas.of_state(home.local_folder(run_id), str(attempt["job"]))
    raise home.RunError("SW2013", f"{run_id}: has no VMs yet; try again in a moment")
