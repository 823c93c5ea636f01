"""``launch`` and ``Run``: the Python API, which the command line uses, too."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import TracebackType
from typing import Any

from launcher import home
from launcher.api.delivery import delivered
from launcher.api.retry import Retries
from launcher.api.transport import import_client
from launcher.api.vertex import Jobs
from launcher.job import customjob
from launcher.job.prices import PriceList, load_prices
from launcher.job.spec import Job, Target
from launcher.job.targets import output_of, problems
from launcher.local.emulator import PROJECT, REGION, Emulator, LocalError
from launcher.packing.pack import Packed, PackingError, pack
from launcher.packing.sdist import package_url
from launcher.status.status import History, Outcome, read_status
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.limits import usd_per_hour
from launcher.supervision.policy import STOP_GRACE, Terms
from launcher.supervision.supervisor import SETTLE, Supervisor, end_run
from launcher.supervision.webhook import Webhook, WebhookError, find_url
from trainer.protocol.secretmanager import ENDPOINT
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventReader, EventWriter, read_events
from trainer.rundir.retry import ONCE

LOCAL_POLL = 0.25  # seconds
LOCAL_PATIENCE = 5.0
LOCAL_STOP_GRACE = 60.0
VERTEX_POLL = 10.0
EVENT_POLL = 0.25
REMOTE_EVENT_POLL = 5.0  # on an object store, where each look is some requests


class LaunchError(ValueError):
    """A run that cannot be started as asked; nothing was started. One line per problem."""


class Run:
    """A run that ``launch`` or ``attach`` looks after, in a thread of this process.

    Its methods raise OSError when the run directory cannot be reached.

    As a context manager it cancels the run when the block is left early.

    Attributes:
        id: the run's id.
        directory: the run directory.
    """

    def __init__(self, run_id: str, directory: RunDirectory, emulator: Emulator | None) -> None:
        self.id = run_id
        self.directory = directory
        self._emulator = emulator
        self._poke = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._supervisor: Supervisor | None = None

    def wait(self, timeout: float | None = None) -> Outcome:
        """Waits for the end of the run and of everything it started.

        Args:
            timeout: seconds, or None for as long as it takes.

        Raises TimeoutError, and whatever kept the launcher from seeing the run through.
        """
        assert self._thread
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"run {self.id} has not ended after {timeout} s")
        if self._error is not None:
            raise self._error
        return Outcome.of(self.directory.outcome() or {})

    @property
    def ended(self) -> bool:
        """Whether the run, and everything it started, has ended."""
        return self._thread is None or not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """Returns what ``swell status --json`` prints, without asking the API (``api`` is None)."""
        return read_status(self.directory)

    def events(self, follow: bool = True) -> Iterator[Event]:
        """Yields the run's events: those that there are, and those to come until its end.

        Each is a dict with ``event``, ``time`` and what trainer.rundir.events says. They come in
        order of time as far as they are known: what one VM writes late comes late.

        Args:
            follow: whether to wait for those to come.

        Raises OSError when the run directory cannot be read.
        """
        reader = EventReader(self.directory)
        pause = EVENT_POLL if self.directory.store.is_local else REMOTE_EVENT_POLL
        while True:
            ended = self.ended  # before the look: what is written last is then seen, too
            yield from reader.read_new()
            if ended or not follow:
                return
            assert self._thread
            self._thread.join(pause)

    def cancel(self, reason: str = "") -> None:
        """Ends the run as cancelled, unless it has ended; ``wait`` tells when it is gone."""
        writer = EventWriter(self.directory, f"launcher-{secrets.token_hex(4)}")
        end_run(self.directory, writer, "cancelled", reason or f"cancelled by {home.whoami()}")
        self._poke.set()

    def abandon(self) -> None:
        """Stops the local VMs at once, without waiting for their goodbyes."""
        if self._emulator is not None and self._supervisor is not None:
            self._supervisor.patience = 0.0
            self._emulator.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.ended:
            self.cancel()
            self.wait()

    def _start(self, supervisor: Supervisor, resources: ExitStack) -> None:
        def see_through() -> None:
            with resources:
                try:
                    supervisor.run()
                except BaseException as error:
                    self._error = error
                    if self._emulator is not None:  # on Vertex AI the run goes on without us
                        self.directory.end("failed", f"the launcher failed: {error!r}")

        self._supervisor = supervisor
        # A daemon: when the program ends without waiting, so do its local VMs.
        self._thread = threading.Thread(target=see_through, name=f"swell {self.id}", daemon=True)
        self._thread.start()

    def _sleep(self, seconds: float) -> None:
        self._poke.wait(seconds)
        self._poke.clear()


def launch(job: Job, target: Target = "local", run_id: str | None = None) -> Run:
    """Starts a run.

    Args:
        job: what to train, and on what.
        target: "local" runs it on this machine, "vertex" on Vertex AI.
        run_id: the run's id; by default one is made from the job's name.

    Returns the run, which is looked after until it ends or this process does; then ``attach`` goes
    on with it. On the local target its VMs end with this process; on Vertex AI they go on.

    Raises LaunchError for a job that the target cannot run, for code that cannot be sent and a
    webhook that is not there, RunError for an id that is taken or impossible, LocalError when the
    emulator does not start, FileError for a wrong price file, OSError when the run directory
    cannot be written.
    """
    require_fit(job, target)
    packed, url = _packed(job), _webhook_url(job)
    run_id = run_id or home.new_id(job.name, time.time())
    home.check_id(run_id)
    directory = home.directory_for(run_id, output_of(job, target), target)
    choices, prices = _choices(job), load_prices(home.folder())
    require_prices(choices, job, prices)
    record = {
        "id": run_id,
        "target": target,
        "spec": job.to_dict(),
        "settings": {**job.settings(), **(packed.settings() if packed else {})},
        "token_sha256": "",  # every attempt has a secret of its own: see home.renew_secret
        "created": time.time(),
        "by": home.whoami(),
    }
    with ExitStack() as resources:
        home.require_new(run_id, directory)
        resources.enter_context(home.launch_lock(run_id))
        home.create(directory, record)
        try:
            if packed:
                packed.send(directory, job.sends_package)
            return _look_after(record, job, directory, prices, url, resources)
        except (LocalError, OSError) as error:
            directory.end("failed", str(error))
            raise
        except BaseException:  # Ctrl-C while it starts
            directory.end("cancelled", f"cancelled by {home.whoami()}")
            raise


def attach(run: str | RunDirectory) -> Run:
    """Goes on with a run whose launch has ended, however that was, from any machine.

    All that is needed is in the run directory. A CustomJob that still runs is watched; one that
    has ended meanwhile is followed by the next attempt, if the run is not over. A run on Vertex AI
    may be attached to while another process looks after it: they do not get into each other's
    way. A local run's VMs have ended with its launch: it goes on from its newest checkpoint.

    Args:
        run: the run's id, a unique beginning of it, its run directory, or that opened.

    Raises RunError when there is no such run, when it is a local run of another machine, or when
    a launch on this machine looks after it; LaunchError when its webhook is not there; LocalError
    when the emulator does not start.
    """
    directory = run if isinstance(run, RunDirectory) else home.find(run)
    record = directory.run()
    run_id, local = str(record["id"]), record.get("target") != "vertex"
    if local and not home.launched_here(record):
        raise home.RunError(f"{run_id}: is a local run of {record.get('by')}; attach to it there")
    job = Job.model_validate(record["spec"])
    url, prices = _webhook_url(job), load_prices(home.folder())
    with ExitStack() as resources:
        resources.enter_context(home.launch_lock(run_id, f"{run_id}: is looked after already"))
        return _look_after(record, job, directory, prices, url, resources)


def _look_after(
    record: dict[str, Any],
    job: Job,
    directory: RunDirectory,
    prices: PriceList,
    webhook_url: str,
    resources: ExitStack,
) -> Run:
    """Starts to see a run through, in a thread. Its ``resources`` are taken over."""
    run_id = str(record["id"])
    heard = resources.enter_context(_told(job, webhook_url, run_id, directory))
    emulator, api = None, _vertex(job)
    if record.get("target") != "vertex":
        emulator = _emulator(run_id, job, resources)
        api = _emulated(job, emulator)
        from launcher.local.buckets import LocalBuckets  # its parts come with the emulator

        for bucket in job.checkpoint.buckets.values():
            if bucket.startswith("gs://"):  # nobody has to set up what is only emulated
                LocalBuckets(home.buckets_folder()).makedirs(bucket)
    terms = Terms(
        run_id,
        tuple(_choices(job)),
        float(record["created"]),
        job.resubmit,
        job.limits,
        saves=job.starts_agent(job.pools[0]),
        stop_grace=LOCAL_STOP_GRACE if emulator else STOP_GRACE,
    )
    code = str((record["settings"].get("code") or {}).get("sha256", ""))
    secrets_api = emulator.endpoint if emulator else ENDPOINT
    buckets = job.checkpoint.buckets
    deliveries = resources.enter_context(ExitStack())  # each until the run has ended

    def request(attempt: int, choice: Choice) -> customjob.CustomJob:
        secret = home.renew_secret(directory)
        return customjob.build(
            choice.job,
            run_id=run_id,
            run_dir=directory.url,
            token=deliveries.enter_context(delivered(job, secret, directory, secrets_api)),
            attempt=attempt,
            region=choice.region,
            code=package_url(directory.url, code) if code else "",
            checkpoints=home.checkpoint_urls(run_id, directory.url, buckets, choice.region),
        )

    run = Run(run_id, directory, emulator)
    supervisor = Supervisor(
        directory,
        terms,
        api,
        request,
        poll=LOCAL_POLL if emulator else VERTEX_POLL,
        price=lambda choice: usd_per_hour(choice.job, prices),
        patience=LOCAL_PATIENCE if emulator else None,
        settle=0.0 if emulator else SETTLE,  # one launch at a time looks after a local run
        steps=lambda: History(read_events(directory)).step,
        sleep=run._sleep,
        listener=heard,
    )
    run._start(supervisor, resources.pop_all())
    return run


def _packed(job: Job) -> Packed | None:
    try:
        return pack(job.code) if job.code else None
    except (PackingError, OSError) as error:
        raise LaunchError(str(error)) from None


def _webhook_url(job: Job) -> str:
    try:
        return find_url(job.notify) if job.notify else ""
    except WebhookError as error:
        raise LaunchError(str(error)) from None


@contextmanager
def _told(
    job: Job, url: str, run_id: str, directory: RunDirectory
) -> Iterator[Callable[[Event], object]]:
    """Lets the job's webhook, if it has one, hear of the run: yields who is to be told."""
    if not job.notify:
        yield lambda event: None
        return
    with Webhook(job.notify, url, run_id, directory) as webhook:
        yield webhook.hear


def _choices(job: Job) -> list[Choice]:
    return choices_of(job, REGION)


def _vertex(job: Job) -> Callable[[str], Jobs]:
    return cache(lambda region: Jobs(job.project or "", region))


def _emulated(job: Job, emulator: Emulator) -> Callable[[str], Jobs]:
    # An emulator that does not answer is gone: asking again does not bring it back.
    return cache(
        lambda region: Jobs(
            job.project or PROJECT, region, emulator.endpoint, retries=Retries(ONCE)
        )
    )


def _emulator(run_id: str, job: Job, resources: ExitStack) -> Emulator:
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
    resources.enter_context(emulator)
    imports.join()  # two threads that import one package can meet it half done
    return emulator


def require_fit(job: Job, target: Target) -> None:
    """Raises LaunchError when ``target`` cannot run ``job``."""
    found = problems(job, target)
    if found:
        lines = [f"{'.'.join(map(str, path))}: {what}" for path, what in found]
        raise LaunchError("\n".join(lines))


def require_prices(choices: Iterable[Choice], job: Job, prices: PriceList) -> None:
    """Raises LaunchError when ``limits.cost`` could not be kept: a price is not known."""
    if job.limits.cost is None:
        return
    unknown = [it.name for it in choices if usd_per_hour(it.job, prices) is None]
    if unknown:
        raise LaunchError(
            f"limits.cost: the price of {unknown[0]} is unknown; "
            "write it into the price file (docs/job.md), or remove the limit"
        )
