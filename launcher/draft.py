"""All that a run is made of, gathered and checked before anything is started.

``prepare`` makes a draft of a job and writes nothing; ``create`` writes the run directory of it.
``reopen`` makes the draft of a run that is to go on. What follows is the same for both, and for
``swell launch --detach``: ``launcher.run.look_after``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from launcher import home
from launcher.job import customjob
from launcher.job.fitness import output_of
from launcher.job.job import Job, TargetName
from launcher.job.machines import LOCAL
from launcher.job.prices import load_prices
from launcher.job.source import changes_worlds
from launcher.local.emulator import LocalError
from launcher.packing.ignore import UNREADABLE, PackingError
from launcher.packing.pack import Packed, pack
from launcher.packing.sdist import package_url
from launcher.supervision.choices import Choice
from launcher.supervision.policy import Terms
from launcher.supervision.wanted import Ways, fleet_of, launched, renews, unfit, ways_of
from launcher.supervision.webhook import WebhookError, find_url
from launcher.target import problems
from launcher.trust import Trust
from trainer.protocol.credentials import AUTHORITY
from trainer.rundir import clock, formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import RUN
from trainer.rundir.usererror import Message, UserError, shown
from trainer.rundir.wanted import Wanted


class LaunchError(UserError, ValueError):
    """A run that cannot be started as asked; nothing was started."""


@dataclass(frozen=True)
class Draft:
    """A run, as far as it is known before it is looked after.

    Attributes:
        record: run.json.
        job: what to train, and on what.
        directory: the run directory.
        ways: where it may run, in order, each with its price.
        webhook_url: where its news goes; empty when the job has no webhook.
        packed: the code that ``create`` sends; None when there is none to send.
    """

    record: dict[str, Any]
    job: Job
    directory: RunDirectory
    ways: Ways
    webhook_url: str
    packed: Packed | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.record["id"])

    @property
    def target(self) -> str:
        """The name of its target."""
        return str(self.record.get("target"))

    @property
    def changes_worlds(self) -> bool | None:
        """Whether its program takes it that its world changes; see launcher.job.source."""
        return home.changes_worlds(self.record)

    @property
    def launched(self) -> Wanted | None:
        """What it is while nobody asks for anything else; None where nobody can."""
        if unfit(self.job, self.changes_worlds) is not None:
            return None
        return launched(self.job, self.ways, float(self.record["created"]))

    def terms(self, stop_grace: float, apart: float, wanted: Wanted | None = None) -> Terms:
        """Returns what the launcher's policy goes by; see Terms for the first arguments.

        Args:
            stop_grace, apart: see there.
            wanted: what the run is asked to be.

        Raises ValueError when it cannot be that.
        """
        ways = self.ways
        if wanted is not None:
            ways = ways_of_job(self.job, wanted)
            require_prices(self.job, [*ways.choices, *ways.anchors])
        return Terms(
            self.run_id,
            ways.choices,
            float(self.record["created"]),
            self.job.resubmit,
            self.job.limits,
            fleet_of(self.job, ways, wanted),
            apart,
            saves=self.job.starts_agent(self.job.pools[0]),
            renews=renews(self.job, self.ways, self.changes_worlds),
            stop_grace=stop_grace,
        )

    def request(self, attempt: int, choice: Choice, token: str) -> customjob.CustomJob:
        """Returns the CustomJob of an attempt; see ``customjob.build`` for ``token``."""
        url, buckets = self.directory.url, self.job.checkpoint.buckets
        code = str((self.record["settings"].get("code") or {}).get("sha256", ""))
        return customjob.build(
            choice.job,
            run_id=self.run_id,
            run_dir=url,
            token=token,
            attempt=attempt,
            region=choice.region,
            code=package_url(url, code) if code else "",
            checkpoints=home.checkpoint_urls(self.run_id, url, buckets, choice.region),
        )


def prepare(job: Job, target: TargetName, run_id: str | None = None) -> Draft:
    """Checks all that can be checked of a new run; writes nothing.

    Args:
        job: what to train, and on what.
        target: where.
        run_id: the run's id; by default one is made from the job's name.

    Raises LaunchError, RunError, FileError and OSError; see ``launcher.launch``.
    """
    require_fit(job, target)
    packed, url = _packed(job), _webhook_url(job)
    now = clock.now()
    run_id = run_id or home.new_id(job.name, now)
    home.check_id(run_id)
    directory = home.directory_for(run_id, output_of(job, target), target)
    ways = ways_of_job(job)
    require_prices(job, [*ways.choices, *ways.anchors])
    home.require_new(run_id, directory)
    record = {
        "id": run_id,
        "target": target,
        "spec": job.to_dict(),
        "settings": {**job.settings(), **(packed.settings() if packed else {})},
        AUTHORITY: "",  # of the first attempt on: see home.issue_secret
        "created": now,
        "by": home.whoami(),
        home.CHANGES: changes_worlds(job),
        **formats.RUN.stamp(),
    }
    return Draft(record, job, directory, ways, url, packed)


def create(draft: Draft) -> None:
    """Puts the code into the run directory, and writes run.json: from then on there is a run.

    In this order, so that a run that is there has its code, whenever its launch is killed.

    Raises RunError when the id is taken, and OSError; there is no run then.
    """
    home.require_new(draft.run_id, draft.directory)
    if draft.packed:
        draft.packed.send(draft.directory, draft.job.sends_package)
    if draft.job.controller:
        home.keep_key(draft.run_id)
    home.create(draft.directory, draft.record)


def reopen(directory: RunDirectory, entrusted: Trust | None = None) -> Draft:
    """Returns the draft of a run that was created before, from its directory alone.

    Args:
        directory: the run directory.
        entrusted: what a controller of the run has; None for anybody else.

    Raises RunError, LaunchError, FileError and OSError; see ``launcher.attach``.
    """
    record = home.read_run(directory)
    try:
        formats.require_usable(record, f"{directory.url}/{RUN}")
    except formats.FormatError as error:
        raise home.RunError(
            formats.ANOTHER_VERSION,
            f"{error}; attach with the Swell that launched it, or begin a new run from one of its "
            f"checkpoints (swell checkpoints {record['id']}; swell launch JOB --from URL)",
        ) from None
    here = entrusted is not None or home.launched_here(record, directory)
    if record.get("target") != "vertex" and not here:
        raise home.RunError(
            home.ELSEWHERE,
            f"{record['id']}: is a local run of {record.get('by')}; attach to it there",
        )
    job = home.job_of(record)
    url = _webhook_url(job) if entrusted is None else entrusted.webhook_url
    return Draft(record, job, directory, ways_of_job(job), url)


@contextmanager
def ends_on_error(directory: RunDirectory) -> Iterator[None]:
    """Ends a run that nobody looks after yet when the block that starts it is left by an error."""
    try:
        yield
    except (LocalError, OSError) as error:
        directory.end("failed", shown(error))
        raise
    except BaseException:  # Ctrl-C while it starts
        directory.end("cancelled", f"cancelled by {home.whoami()}")
        raise


def require_fit(job: Job, target: TargetName) -> None:
    """Raises LaunchError when ``target`` cannot run ``job``."""
    found = problems(job, target)
    if found:
        raise LaunchError.of(
            [Message(id, f"{'.'.join(map(str, path))}: {what}") for path, id, what in found]
        )


def require_prices(job: Job, choices: Iterable[Choice]) -> None:
    """Raises LaunchError when ``limits.cost`` could not be kept: a price is not known."""
    if job.limits.cost is None:
        return
    unknown = [choice.name for choice in choices if choice.usd_per_hour is None]
    if unknown:
        raise LaunchError(
            "SW2014",
            f"limits.cost: the price of {unknown[0]} is unknown; "
            "write it into the price file (docs/job.md), or remove the limit",
        )


def ways_of_job(job: Job, wanted: Wanted | None = None) -> Ways:
    """Returns where a run may go, with this machine's prices; see ``ways_of``."""
    return ways_of(job, LOCAL, load_prices(home.folder()), wanted)


def _packed(job: Job) -> Packed | None:
    try:
        return pack(job.code) if job.code else None
    except PackingError as error:
        raise LaunchError.of(error.messages) from None
    except OSError as error:
        raise LaunchError(UNREADABLE, str(error)) from None


def _webhook_url(job: Job) -> str:
    try:
        return find_url(job.notify) if job.notify else ""
    except WebhookError as error:
        raise LaunchError.of(error.messages) from None
