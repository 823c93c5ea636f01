"""What the commands do while a person waits: follow a launch, or leave it in the background."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from launcher import home
from launcher.api.reach import SAY_AFTER
from launcher.commands.following import see_through
from launcher.draft import Draft, LaunchError, create, ends_on_error, prepare
from launcher.job.job import Job, TargetName
from launcher.local.emulator import LocalError, Replicas, child_environment
from launcher.run import attach, hand_over, launch
from launcher.run_states import BAD_INPUT
from launcher.status.status import ABANDONED, is_abandoned
from launcher.supervision.attempt import read_attempts
from launcher.terminal import visible
from trainer.rundir.attempts import ENDED
from trainer.rundir.directory import RunDirectory
from trainer.rundir.private import append_private
from trainer.rundir.usererror import Message

DETACH_LIMIT = 60.0
ENDED_AT_ONCE = "the launch ended at once, without a word; launch without --detach to see why"


def launch_and_follow(job: Job, target: TargetName, run_id: str | None, as_json: bool) -> str:
    """Launches ``job`` and shows it until its end. Returns the state it ended in.

    Raises what ``launch`` and ``see_through`` raise.
    """
    return see_through(lambda: launch(job, target, run_id), as_json)


def attach_and_follow(directory: RunDirectory, as_json: bool) -> str:
    """Goes on with a run and shows it until its end. Returns the state it ended in.

    Raises what ``attach`` and ``see_through`` raise.
    """
    return see_through(lambda: attach(directory), as_json)


def launch_detached(job: Job, target: TargetName, run_id: str | None) -> Draft:
    """Starts a run that its controller, or else a process in the background, looks after.

    Returns it once the controller does, or else once it is submitted.

    Raises what ``launch`` raises, and LocalError when the background process does not get so far.
    """
    draft = prepare(job, target, run_id)
    if job.controller:
        with home.launch_lock(draft.run_id):
            create(draft)
            with ends_on_error(draft.directory):
                hand_over(draft, lambda line: print(visible(f"swell: {line}"), file=sys.stderr))
        return draft
    log = home.local_folder(draft.run_id) / "launch.log"
    with home.launch_lock(draft.run_id) as lock:
        create(draft)
        with ends_on_error(draft.directory), append_private(log) as output:
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
        child.terminate()  # first: the run directory may not answer
        draft.directory.end("cancelled", f"cancelled by {home.whoami()}")
        raise
    return draft


def _await_start(child: subprocess.Popen[bytes], directory: RunDirectory, log: Path) -> None:
    """Returns when the run is submitted, or has ended already."""
    began = time.monotonic()
    said = False
    while (waited := time.monotonic() - began) < DETACH_LIMIT:
        if waited > SAY_AFTER and not said:
            said = True
            left = DETACH_LIMIT - waited
            print(
                f"swell: the run has not started after {waited:.0f} s; waiting for {left:.0f} s "
                f"more; see {log}",
                file=sys.stderr,
            )
        code = child.poll()
        attempts = read_attempts(directory)
        if directory.outcome() or any(attempt["job"] for attempt in attempts):
            return
        if code is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            why = "\n".join(line.removeprefix("swell: ") for line in lines)
            ended = Message("", why) if why else Message("SW2017", ENDED_AT_ONCE)
            if not attempts:  # else a CustomJob may be there, which swell attach finds
                directory.end("failed", str(ended))
            raise (LaunchError if code == BAD_INPUT else LocalError).of([ended])
        time.sleep(0.05)
    raise LocalError(
        "SW2018", f"the run has not started within {DETACH_LIMIT:.0f} s; {log} says how far it is"
    )


def local_replica(directory: RunDirectory, replica: str) -> tuple[Replicas, str]:
    """Returns the VMs of the job that has ``replica``, of a local run that goes on.

    Args:
        directory: the run.
        replica: such as ``workerpool1-0``; in a fleet ``2/workerpool1-0``, of attempt 2.

    Returns them and what the job itself calls the replica. Raises RunError.
    """
    run = home.read_run(directory)
    run_id = str(run["id"])
    if run.get("target") != "local":
        raise home.RunError(
            "SW2010", f"{run_id}: runs on Vertex AI, where the Spot market preempts by itself"
        )
    home.require_replica(run, replica)
    if outcome := directory.outcome():
        raise home.RunError(
            home.OVER, f"{run_id}: has ended ({outcome.get('state')}); it has no VMs"
        )
    if is_abandoned(run, directory):
        raise home.RunError("SW2012", f"{run_id}: {ABANDONED}")
    number, _, name = replica.rpartition("/")
    attempts = [it for it in read_attempts(directory) if it["job"]]
    if number:
        attempts = [it for it in attempts if it["attempt"] == int(number)]
    elif len(alive := [it for it in attempts if it["state"] not in ENDED]) > 1:
        jobs = " or ".join(f"{it['attempt']}/{replica}" for it in alive[:8])
        raise home.RunError("SW2029", f"{run_id}: several jobs have a {replica}; write {jobs}")
    if attempts:
        return Replicas.of_state(home.local_folder(run_id), str(attempts[-1]["job"])), name
    raise home.RunError("SW2013", f"{run_id}: has no VMs yet; try again in a moment")
