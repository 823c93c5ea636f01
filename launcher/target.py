"""What tells one target from another: the local one, on this machine, and Vertex AI.

A run's ``TargetName`` says where it runs; a ``Target`` is that place, open for business. Whoever
looks after a run asks it, and not which of the two it is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from launcher import home
from launcher.api.apierror import SILENT, ApiError
from launcher.api.client import import_client
from launcher.api.retry import Retries
from launcher.api.vertex import Jobs, JobState
from launcher.job.barescript import job_of_script
from launcher.job.customjob import CustomJob
from launcher.job.fitness import absent, misfits, warnings
from launcher.job.job import Job, TargetName
from launcher.job.jobfile import JobFile, JobFileError, made_job, read_job
from launcher.job.machines import LOCAL
from launcher.job.problem import NO_VM, Problem
from launcher.newjob import field_of
from trainer.protocol.secretmanager import ENDPOINT
from trainer.rundir.retry import Backoff

# Seconds after which a request that left no trace was not sent: longer than a submission is tried
# (launcher.api.retry, and one answer's timeout).
SETTLE = 180.0
# For as long an emulator that has ended may fail to start again; VMs train on meanwhile.
LOCAL_PATIENCE = 600.0
LOCAL_BEAT = 5.0
LOCAL_SETTLE = 5.0
LOCAL_BACKOFF = Backoff(first=0.05, longest=1.0, limit=30.0)


Wanted = TargetName | Literal["any"]


class JobsApi(Protocol):
    """What looking after a run needs of the API in one region; ``Jobs`` is one."""

    region: str
    endpoint: str

    def submit(self, request: CustomJob) -> JobState:
        """Creates a CustomJob."""

    def find(self, run_id: str | None = None, attempt: int | None = None) -> Sequence[JobState]:
        """Returns the CustomJobs with these labels."""

    def find_controller(self, run_id: str, number: int) -> Sequence[JobState]:
        """Returns the CustomJob of a run's controller, if there is one."""

    def get(self, name: str) -> JobState:
        """Returns a CustomJob's state."""

    def cancel(self, name: str) -> None:
        """Asks for a CustomJob's end."""


@dataclass(frozen=True)
class Target:
    """Where a run's CustomJobs go, and what to expect there. The defaults are Vertex AI's.

    Attributes:
        api: returns the API of a region.
        poll: seconds between two looks at a CustomJob.
        patience: seconds without an answer after which an attempt counts as lost; None for never.
        settle: seconds after which a request that left no trace was not sent.
        stop_grace: seconds that a run gets to save a checkpoint when a limit is reached.
        apart: seconds after which a job is given up that the others of its fleet do not reach.
        secrets: Secret Manager's endpoint.
        token: what an emulator wants to be shown.
        halt: stops all VMs at once; None where that is not in this machine's hands.
        beat: seconds after which whoever looks after the run says so again.
    """

    api: Callable[[str], JobsApi]
    poll: float = 10.0
    patience: float | None = None
    settle: float = SETTLE
    stop_grace: float = 600.0
    apart: float = 300.0
    secrets: str = ENDPOINT
    token: str = field(default="", repr=False)
    halt: Callable[[], None] | None = None
    beat: float = 30.0  # with patience (attendance.STALE) longer than a submission is tried


def vertex(job: Job) -> Target:
    """Returns Vertex AI, in the job's project."""
    return Target(cache(lambda region: Jobs(job.project or "", region)))


@contextmanager
def local(job: Job, run_id: str, over: Callable[[], bool] = lambda: True) -> Iterator[Target]:
    """Yields this machine, with the run's own emulator: one that lives, or else a new one.

    Should it end meanwhile, it is started again; its VMs outlive it. At the end of the block it is
    stopped, and its VMs with it, if the run is ``over`` then. Else VMs go on without this process.

    Raises LocalError when the emulator does not start.
    """
    from launcher.local.buckets import LocalBuckets  # its parts come with the emulator
    from launcher.local.emulator import Emulator, LocalError

    for bucket in job.checkpoint.buckets.values():
        if bucket.startswith("gs://"):  # nobody has to set up what is only emulated
            LocalBuckets(home.buckets_folder()).makedirs(bucket)
    # The client's import takes as long as the emulator's start: let it meanwhile.
    imports = threading.Thread(target=import_client, daemon=True)
    imports.start()
    emulator = Emulator(
        home.local_folder(run_id),
        home.buckets_folder(),
        job.local.market,
        job.local.vm,
        job.local.memory.bytes if job.local.memory else None,
    )

    def revive(seconds: float) -> None:
        try:
            emulator.start()
        except LocalError as error:
            raise ApiError(SILENT, str(error), transient=True, kind="silent") from None
        time.sleep(seconds)

    @cache
    def jobs(region: str, endpoint: str, token: str) -> Jobs:
        retries = Retries(LOCAL_BACKOFF, sleep=revive)
        return Jobs(job.project or LOCAL, region, endpoint, token=token, retries=retries)

    emulator.start()
    try:
        imports.join()  # two threads that import one package can meet it half done
        yield Target(
            lambda region: jobs(region, emulator.endpoint, emulator.token),
            poll=0.25,
            patience=LOCAL_PATIENCE,
            # Without controllers, one launch at a time looks after a local run.
            settle=LOCAL_SETTLE if job.controller else 0.0,
            stop_grace=60.0,
            apart=15.0,
            secrets=emulator.endpoint,
            token=emulator.token,
            halt=emulator.stop,
            beat=LOCAL_BEAT,
        )
    finally:
        if over() or not emulator.has_vms:  # what is queued waits for the next one
            emulator.stop()


def opened(
    name: str, job: Job, run_id: str, over: Callable[[], bool] = lambda: True
) -> AbstractContextManager[Target]:
    """Returns the target of this name, for as long as the context lasts; see ``local``."""
    return nullcontext(vertex(job)) if name == "vertex" else local(job, run_id, over)


def problems(job: Job, target: Wanted) -> list[Problem]:
    """Returns what keeps ``job`` from running on ``target``, launched from this machine."""
    fit = absent(job) if target == "any" else misfits(job, target)
    found = [*fit, *_of_the_program(job, target)]
    if target == "local":
        from launcher.emulator.vms.places import missing  # for Vertex AI no emulator is needed

        if why := missing(job.local.vm):
            what = f"is {job.local.vm}; {why}, or write process"
            found.append((("local", "vm"), NO_VM, what))
    return found


def _of_the_program(job: Job, target: Wanted) -> Iterator[Problem]:
    """Yields what is wrong with the program's files: not sent, or not what the job says of them."""
    from launcher.job.source import NO_PYTHON, disagreements
    from launcher.packing.pack import left_behind

    yield from left_behind(job)
    for problem in disagreements(job):
        # The VMs' Python may be a newer one than this machine's, and know more.
        if problem[1] != NO_PYTHON or target == "local":
            yield problem


def load_job(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    target: Wanted | None = None,
    warn: Callable[[str], None] | None = None,
    variables: Mapping[str, str] = os.environ,
) -> Job:
    """Reads a job file.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` texts that replace single fields; values are YAML.
        target: also check what this target needs; "any": what all of them do.
        warn: called with each warning: one line, with its id.
        variables: what ``${NAME}`` in the file refers to.

    Returns the job. Raises JobFileError with every problem, each with its file, line and field.
    """
    return _checked(read_job(path, overrides, variables), target, warn)


def load_script(
    script: str,
    args: Sequence[str],
    pools: Sequence[str] = (),
    overrides: Sequence[str] = (),
    target: TargetName = "local",
    warn: Callable[[str], None] | None = None,
) -> Job:
    """Returns the job of a script alone: one that torchrun could run, or of Horovod's or Swell's.

    Args:
        script: its path.
        args: its arguments.
        pools: ``3 x MACHINE``, each; by default two small machines.
        overrides, target, warn: see ``load_job``.

    Raises JobFileError with every problem.
    """
    kind = "torchrun"
    with suppress(OSError, SyntaxError, ValueError):  # what is wrong with it is told of later
        kind = field_of(Path(script).read_bytes())
    tree = job_of_script(script, args, pools, send=target == "vertex", field=kind)
    return _checked(made_job(tree, {}, script, overrides), target, warn)


def _checked(file: JobFile, target: Wanted | None, warn: Callable[[str], None] | None) -> Job:
    if target and (found := problems(file.job, target)):
        raise JobFileError.of(file.located(found))
    if warn:
        found = [*warnings(file.job), *(_of_sources(file.job) if target == "local" else ())]
        for warning in file.located(found):
            warn(str(warning))
    return file.job


def _of_sources(job: Job) -> Iterator[Problem]:
    """Yields what in the sources of a job may surprise on local VMs."""
    from launcher.job.mounts import in_source
    from launcher.packing.pack import python_sources

    with suppress(OSError, ValueError):  # whoever packs them says what is wrong with them
        for field, name, path in python_sources(job):
            yield from in_source(job, field, name, path.read_bytes())
