"""``launch`` and ``Run``: the Python API, which the command line uses, too."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from launcher import runs
from launcher.apierror import ApiError
from launcher.delivery import delivered
from launcher.job import customjob
from launcher.job.spec import Job, Target
from launcher.job.targets import output_of, problems
from launcher.local import PROJECT, REGION, Emulator, LocalError
from launcher.packing import Packed, PackingError, pack
from launcher.retry import ONCE, Retries
from launcher.sdist import package_url
from launcher.status import Outcome, read_status
from launcher.supervisor import PATIENCE, Supervisor, end_run
from launcher.transport import import_client
from launcher.vertex import Jobs
from launcher.webhook import Webhook, WebhookError, find_url
from trainer.credentials import new_secret
from trainer.events import Event, EventReader, EventWriter
from trainer.rundir import RunDirectory, token_sha256
from trainer.secretmanager import ENDPOINT

LOCAL_POLL = 0.25  # seconds
LOCAL_PATIENCE = 5.0
VERTEX_POLL = 10.0
EVENT_POLL = 0.25
REMOTE_EVENT_POLL = 5.0  # on an object store, where each look is some requests


class LaunchError(ValueError):
    """A run that cannot be started as asked; nothing was started. One line per problem."""


class Run:
    """A run that ``launch`` started, looked after by a thread of this process.

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

        Each is a dict with ``event``, ``time`` and what trainer.events says. They come in order of
        time as far as they are known: what one VM writes late comes late.

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
        end_run(self.directory, writer, "cancelled", reason or f"cancelled by {runs.whoami()}")
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

    Returns the run, which is looked after until it ends or this process does. On the local
    target its VMs end with this process; on Vertex AI they go on.

    Raises LaunchError for a job that the target cannot run, for code that cannot be sent and a
    webhook that is not there, RunError for an id that is taken or impossible, LocalError when the
    emulator does not start, ApiError when Secret Manager refuses, OSError when the run directory
    cannot be written.
    """
    require_fit(job, target)
    packed, url = _packed(job), _webhook_url(job)
    run_id = run_id or runs.new_id(job.name, time.time())
    runs.check_id(run_id)
    directory = runs.directory_for(run_id, output_of(job, target), target)
    secret = new_secret()
    with ExitStack() as resources:
        runs.require_new(run_id, directory)
        resources.enter_context(runs.launch_lock(run_id))
        runs.create(
            directory,
            {
                "id": run_id,
                "target": target,
                "spec": job.to_dict(),
                "settings": {**job.settings(), **(packed.settings() if packed else {})},
                "token_sha256": token_sha256(secret),
                "created": time.time(),
                "by": runs.whoami(),
            },
        )
        heard = resources.enter_context(_told(job, url, run_id, directory))
        emulator = None
        try:
            if packed:
                packed.send(directory, job.sends_package)
            if target == "local":
                # The client's import takes as long as the emulator's start: let it meanwhile.
                imports = threading.Thread(target=import_client, daemon=True)
                imports.start()
                folder = runs.local_folder(run_id)
                emulator = resources.enter_context(
                    Emulator(
                        folder,
                        runs.buckets_folder(),
                        job.local.market,
                        job.local.vm,
                        job.local.memory.bytes if job.local.memory else None,
                    )
                )
                imports.join()  # two threads that import one package can meet it half done
                region = job.regions[0] if job.regions else REGION
                # An emulator that does not answer is gone: asking again does not bring it back.
                jobs = Jobs(
                    job.project or PROJECT, region, emulator.endpoint, retries=Retries(ONCE)
                )
            else:
                jobs = Jobs(job.project or "", job.regions[0])
            secrets_api = emulator.endpoint if emulator else ENDPOINT
            token = resources.enter_context(delivered(job, secret, directory, secrets_api))
        except (LocalError, ApiError, OSError) as error:
            directory.end("failed", str(error))
            raise
        except BaseException:  # Ctrl-C while it starts
            directory.end("cancelled", f"cancelled by {runs.whoami()}")
            raise
        run = Run(run_id, directory, emulator)
        supervisor = Supervisor(
            directory,
            jobs,
            lambda attempt: customjob.build(
                job,
                run_id=run_id,
                run_dir=directory.url,
                token=token,
                attempt=attempt,
                code=package_url(directory.url, packed.sha256) if packed else "",
            ),
            poll=LOCAL_POLL if emulator else VERTEX_POLL,
            patience=LOCAL_PATIENCE if emulator else PATIENCE,
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


def require_fit(job: Job, target: Target) -> None:
    """Raises LaunchError when ``target`` cannot run ``job``."""
    found = problems(job, target)
    if found:
        lines = [f"{'.'.join(map(str, path))}: {what}" for path, what in found]
        raise LaunchError("\n".join(lines))
