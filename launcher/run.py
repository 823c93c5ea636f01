"""``launch``, ``attach`` and ``Run``: the Python API, which the command line uses, too.

(The module is not called ``launch``: as a submodule it would hide the function
``launcher.launch`` as soon as it was imported.)
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from launcher import home
from launcher.api.reach import SAY_AFTER
from launcher.draft import Draft, LaunchError, create, ends_on_error, prepare, reopen
from launcher.job.job import Job, TargetName
from launcher.oversight import oversight_of
from launcher.sightings import Sightings, seen_in
from launcher.status.alerts import Terms
from launcher.status.stalls import Lookout
from launcher.status.status import Outcome, read_status
from launcher.supervision.attempt import read_attempts
from launcher.supervision.ending import end_run
from launcher.supervision.entrusted import NO_CONTROLLER, Entrusted
from launcher.supervision.staff import Staff
from launcher.supervision.supervisor import Supervisor
from launcher.supervision.webhook import Webhook
from launcher.target import Target, opened
from trainer.rundir import clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventReader, EventWriter, read_events
from trainer.rundir.usererror import Message

EVENT_POLL = 0.25  # seconds
REMOTE_EVENT_POLL = 5.0  # on an object store, where each look is some requests


class Run:
    """A run that ``launch`` or ``attach`` looks after, in a thread of this process.

    Its methods raise OSError when the run directory cannot be reached.

    As a context manager it cancels the run when the block is left early.

    Attributes:
        id: the run's id.
        directory: the run directory.
        draft: what it was launched as.
    """

    def __init__(
        self,
        draft: Draft,
        target: Target,
        supervisor: Supervisor | Entrusted,
        poke: threading.Event,
        resources: ExitStack,
    ) -> None:
        self.id = draft.run_id
        self.directory = draft.directory
        self.draft = draft
        self._outcome: dict[str, Any] = {}
        self._target = target
        self._supervisor = supervisor
        self._poke = poke  # wakes the supervisor
        self._resources = resources  # held until the end
        self._error: BaseException | None = None
        # A daemon: a program that ends without waiting leaves the run to whoever attaches to it.
        name = f"swell {self.id}"
        self._thread = threading.Thread(target=self._see_through, name=name, daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> Outcome:
        """Waits for the end of the run and of everything it started.

        Args:
            timeout: seconds, or None for as long as it takes.

        Raises TimeoutError, and whatever kept the launcher from seeing the run through.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"run {self.id} has not ended after {timeout} s")
        if self._error is not None:
            raise self._error
        return Outcome.of(self._outcome)

    @property
    def ended(self) -> bool:
        """Whether the run, and everything it started, has ended."""
        return not self._thread.is_alive()

    @property
    def looks_on(self) -> bool:
        """Whether a controller looks after the run, and this process does not."""
        return isinstance(self._supervisor, Entrusted) and self._supervisor.looks_on

    def told(self) -> list[str]:
        """Lines about what the run waits for in vain: an API that does not answer, and why."""
        return self._supervisor.told()

    def join(self, timeout: float) -> None:
        """Waits for the end of the run, and so many seconds at the most."""
        self._thread.join(timeout)

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
            self._thread.join(pause)

    def cancel(self, reason: str = "") -> None:
        """Ends the run as cancelled, unless it has ended; ``wait`` tells when it is gone."""
        writer = EventWriter(self.directory, f"launcher-{secrets.token_hex(4)}")
        end_run(self.directory, writer, "cancelled", reason or f"cancelled by {home.whoami()}")
        self._poke.set()

    def abandon(self) -> bool:
        """Stops the local VMs at once, without waiting for their goodbyes.

        Returns whether the run has such: others end by themselves.
        """
        if self._target.halt is None:
            return False
        self._supervisor.lose_patience()
        self._target.halt()
        return True

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            self.cancel()
            self.wait()

    def _see_through(self) -> None:
        with self._resources:
            try:
                self._outcome = self._supervisor.run()
                with suppress(OSError, ValueError):
                    self._write_down()
            except BaseException as error:  # the run goes on without us
                self._error = error

    def _write_down(self) -> None:
        """Keeps what the run has seen of how Vertex AI takes machines."""
        if self.draft.target != "vertex":
            return
        endpoints = sorted({str(it["endpoint"]) for it in read_attempts(self.directory)})
        project = self.draft.job.project or ""
        blank = Sightings(run=self.id, at=clock.now(), endpoints=endpoints, project=project)
        found = seen_in(blank, read_events(self.directory, brief=True))
        if found.any:
            found.keep(home.folder())


def launch(job: Job, target: TargetName = "local", run_id: str | None = None) -> Run:
    """Starts a run.

    Args:
        job: what to train, and on what.
        target: "local" runs it on this machine, "vertex" on Vertex AI.
        run_id: the run's id; by default one is made from the job's name.

    Returns the run, which is looked after until it ends or this process does. Its VMs go on without
    this process, on either target; ``attach`` looks after it again.

    Raises LaunchError for a job that the target cannot run, for code that cannot be sent and a
    webhook that is not there, RunError for an id that is taken or impossible, LocalError when the
    emulator does not start, FileError for a wrong price file, OSError when the run directory
    cannot be written.
    """
    draft = prepare(job, target, run_id)
    with ExitStack() as resources:
        resources.enter_context(home.launch_lock(draft.run_id))
        create(draft)
        with ends_on_error(draft.directory):
            return look_after(draft, resources)


def attach(run: str | RunDirectory) -> Run:
    """Goes on with a run whose launch has ended, however that was, from any machine.

    All that is needed is in the run directory. A CustomJob that still runs is watched; one that
    has ended meanwhile is followed by the next attempt, if the run is not over. A run on Vertex AI
    may be attached to while another process looks after it: they do not get into each other's
    way.

    Args:
        run: the run's id, a unique beginning of it, its run directory, or that opened.

    Raises RunError when there is no such run, when it is a local run of another machine, or when
    a launch on this machine looks after it; LaunchError when its webhook is not there; LocalError
    when the emulator does not start.
    """
    draft = reopen(run if isinstance(run, RunDirectory) else home.find(run))
    with ExitStack() as resources:
        refusal = f"{draft.run_id}: is looked after already"
        resources.enter_context(home.launch_lock(draft.run_id, refusal))
        return look_after(draft, resources)


def look_after(draft: Draft, resources: ExitStack) -> Run:
    """Starts to see a run through, in a thread; a run with a controller, to have that do it.

    Args:
        draft: the run, whose directory is there.
        resources: to be held for as long as that takes; they are taken over.

    Raises LocalError when the emulator does not start.
    """
    directory = draft.directory
    heard: list[Callable[[Event], object]] = []

    webhooks = resources.enter_context(ExitStack())  # told at last what the run has come to

    def alone() -> None:
        heard.append(webhooks.enter_context(webhook_of(draft)))

    over = partial(_over, directory)
    target = resources.enter_context(opened(draft.target, draft.job, draft.run_id, over))
    poke = threading.Event()

    def sleep(seconds: float) -> None:
        poke.wait(seconds)
        poke.clear()

    def listener(event: Event) -> None:
        for hear in heard:
            hear(event)

    seen = oversight_of(draft, target, resources, listener=listener, sleep=sleep)
    resources.callback(seen.duty.end)
    supervisor: Supervisor | Entrusted = seen.supervisor
    if seen.staff is None:
        alone()
    else:
        supervisor = Entrusted(directory, seen.staff, seen.supervisor, target, alone, sleep)
    return Run(draft, target, supervisor, poke, resources.pop_all())


def hand_over(draft: Draft, say: Callable[[str], object]) -> None:
    """Has a controller look after a run, and returns when it does.

    Args:
        draft: the run, whose directory is there, and whose job has a controller.
        say: called with a line about what is waited for.

    Raises LaunchError when none can be had: the run has failed then; LocalError when the emulator
    does not start, and ApiError and OSError as ``launch`` does.
    """
    directory = draft.directory
    with ExitStack() as resources:
        over = partial(_over, directory)
        target = resources.enter_context(opened(draft.target, draft.job, draft.run_id, over))
        seen = oversight_of(draft, target, resources, listener=lambda event: None, sleep=time.sleep)
        assert seen.staff is not None
        looking = Entrusted(
            directory, seen.staff, seen.supervisor, target, lambda: None, time.sleep
        )
        slow = SlowStart(seen.staff, say)
        if not looking.look_on(until=slow.is_over):
            why = Message(NO_CONTROLLER, f"no controller can be had: {seen.staff.trouble}")
            directory.end("failed", str(why))
            raise LaunchError.of([why])


class SlowStart:
    """Says once that a controller takes its time.

    Args:
        staff: the run's controllers.
        say: called with the line.
    """

    def __init__(self, staff: Staff, say: Callable[[str], object]) -> None:
        self._staff, self._say = staff, say
        self._since = time.monotonic()

    def is_over(self) -> bool:
        """Whether a controller looks after the run."""
        if self._staff.here:
            return True
        if time.monotonic() - self._since >= SAY_AFTER:
            states = [it.state for it in self._staff.records.values()] or ["not sent yet"]
            self._say(f"waiting for the run's controller: its CustomJob is {states[-1]}")
            self._since = math.inf
        return False


def _over(directory: RunDirectory) -> bool:
    with suppress(OSError, ValueError):
        return directory.outcome() is not None
    return False  # not known: what runs is left running


@contextmanager
def webhook_of(draft: Draft, late: bool = False) -> Iterator[Callable[[Event], object]]:
    """Lets the job's webhook, if it has one, hear of the run: yields what takes in its events.

    Args:
        draft: the run.
        late: see Webhook.
    """
    notify = draft.job.notify
    if notify is None:
        yield lambda event: None
        return
    terms = Terms.of(draft.job)
    lookout = Lookout(draft.directory, float(draft.record["created"]), terms=terms)
    webhook = Webhook(
        notify, draft.webhook_url, draft.run_id, draft.directory, stalled=lookout.look, late=late
    )
    with webhook:
        yield webhook.hear
