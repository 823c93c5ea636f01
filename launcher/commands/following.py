"""A run as ``launch`` and ``attach`` show it until its end, whoever reads, whatever answers.

The main thread waits for nothing but the next moment: it hears of Ctrl-C at once. What needs the
network or a disk is done by others: the look at the run directory, the cancellation, the output.
"""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Any, cast

from launcher import home
from launcher.api.reach import SAY_AFTER
from launcher.commands.interrupts import handled_here
from launcher.disks import troubles_of
from launcher.job.marketfile import not_come, whole_market
from launcher.run import Run
from launcher.status.status import Outcome, read_status
from launcher.supervision.attempt import read_attempts
from launcher.supervision.silence import Silence
from launcher.terminal import visible
from launcher.views.live import LiveView, PlainView, Scene, View
from launcher.views.outlet import Outlet
from launcher.views.output import Screen
from launcher.views.summary import print_summary
from trainer.rundir import clock
from trainer.rundir.events import Event, EventReader
from trainer.rundir.numbers import number_in
from trainer.rundir.private import append_private
from trainer.rundir.usererror import UserError

LOOK_EVERY = 0.25  # seconds
REMOTE_LOOKS = 20  # as many times more seldom on an object store, where each look is a request
LAST_LOOK = 10.0  # seconds for what was written last, once the run has ended
ABANDON_LIMIT = 20.0  # seconds in which local VMs are stopped
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Left(UserError, RuntimeError):
    """The command has ended before the run."""


class Stops:
    """Counts requests to stop, Ctrl-C and SIGTERM. A terminal that hangs up is none.

    Attributes:
        count: how many there were.
        interrupt: whether one ends what is being done.
        terminated: whether SIGTERM was among them.
        hung_up: whether the terminal is gone.
    """

    def __init__(self) -> None:
        self.count = 0
        self.terminated = False
        self.interrupt = True
        self.hung_up = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.hung_up = True
            return
        self.count += 1
        self.terminated |= number == signal.SIGTERM
        if self.interrupt:
            raise KeyboardInterrupt


@contextmanager
def stops() -> Iterator[Stops]:
    """In the block the signals that stop a command are counted; SIGHUP where it is not ignored."""
    found = Stops()
    before = {number: signal.getsignal(number) for number in (*_STOPPING, signal.SIGHUP)}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:
            signal.signal(number, found)
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Look:
    """What one look at a run has found."""

    events: list[Event] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome | None = None
    troubles: list[str] = field(default_factory=list)


class Looks:
    """Looks at a run again and again, in a thread: its directory may not answer."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._reader = EventReader(run.directory, brief=True)
        self._silence = Silence()
        self._seen: queue.SimpleQueue[Look] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._look_on, name="swell-looks", daemon=True)
        self._thread.start()

    def new(self) -> Iterator[Look]:
        """Yields what was found since the last call."""
        with suppress(queue.Empty):
            while True:
                yield self._seen.get_nowait()

    def told(self) -> list[str]:
        """Lines about a look that does not come to its end."""
        return self._silence.told()

    def finish(self, limit: float) -> Iterator[Look]:
        """Yields the rest, once the run has ended; waits so many seconds for it."""
        self._thread.join(limit)
        yield from self.new()

    def _look_on(self) -> None:
        pause = LOOK_EVERY * (1 if self._run.directory.store.is_local else REMOTE_LOOKS)
        while True:
            ended = self._run.ended  # before the look: what is written last is then seen, too
            look = Look()
            url = self._run.directory.url
            self._silence.ask(f"{url} has not answered")
            try:
                self._look(look)
            except (OSError, ValueError) as error:
                look.troubles.append(f"{url} cannot be read: {error}")
            self._silence.answered()
            draft = self._run.draft
            look.troubles += troubles_of(draft.run_id, draft.directory, draft.target)
            self._seen.put(look)
            if ended:
                return
            self._run.join(pause)

    def _look(self, look: Look) -> None:
        directory = self._run.directory
        look.attempts, outcome = read_attempts(directory), directory.outcome()
        look.outcome = Outcome.of(outcome) if outcome else None
        look.events = self._reader.read_new()


class Following:
    """Shows a run until its end.

    Args:
        run: the run.
        out: where to.
        asked: the requests to stop.
    """

    def __init__(self, run: Run, out: Outlet, asked: Stops) -> None:
        self._run = run
        self._out = out
        self._asked = asked
        draft = run.draft
        self._started = float(draft.record["created"])
        job = draft.job
        jobs = job.fleet.jobs if job.is_fleet else 0
        self._scene = Scene(run.id, job.replicas(), self._started, jobs, launches=True)
        self._looks = Looks(run)
        self._cancelling: _Task | None = None
        self._abandoning: _Task | None = None
        self._left_by = 0.0  # in monotonic seconds, once local VMs are being stopped
        self._leave_told_by = float("inf")  # the same, once the run is being cancelled
        self._seen: list[str] = []  # troubles of the last look
        self._troubles: list[str] = []  # as told
        self._hung_up = False

    def follow(self) -> str:
        """Shows the run. Returns the state in which it ended.

        Raises what kept the launcher from seeing it through, and Left.
        """
        target, url = self._run.draft.target, self._run.directory.url
        ended = self._run.ended  # then there is nothing to follow
        said = f"run {self._run.id} ({target}) {'has ended' if ended else f'in {url}'}"
        while True:
            with self._view() as view:
                view.show(said)
                outcome = self._show(view)
            if outcome is not None:
                return outcome.state
            said = self._hang_up()

    def summarise(self, as_json: Outlet | None) -> None:
        """Prints the summary, and the status as JSON if that is asked for."""
        try:
            status = read_status(self._run.directory)
            ended = number_in((self._run.directory.outcome() or {}).get("time"))
        except (OSError, ValueError) as error:
            print(visible(f"the run directory cannot be read: {error}"), file=self._out)
            return
        took = (ended or clock.now()) - self._started
        print_summary(self._console(), status, self._run.directory.url, took)
        known = status["state"] == "succeeded" and status["steps_lost"] is not None
        if self._is_local and known:
            market = whole_market(self._run.draft.job.local.market)
            for line in not_come(market, status["step"], took):
                print(visible(f"\n{line}"), file=self._out)
        if as_json is not None:
            print(json.dumps(status, indent=2), file=as_json)

    def _console(self) -> Screen:
        return Screen(cast(IO[str], self._out))

    def _view(self) -> LiveView | PlainView:
        console = self._console()
        if console.is_terminal and not console.is_dumb_terminal:
            return LiveView(console, self._scene)
        return PlainView(lambda line: print(visible(line), file=self._out), self._scene)

    def _hang_up(self) -> str:
        """The terminal is gone: from now on the output goes where a detached launch's does."""
        self._hung_up = True
        path = home.local_folder(self._run.id) / "launch.log"
        self._out.redirect(io.TextIOWrapper(append_private(path), "utf-8"))
        return (
            f"the terminal is gone and run {self._run.id} goes on; see swell status, swell logs "
            "--follow and swell cancel; once this process has ended, swell attach goes on with it"
        )

    def _show(self, view: View) -> Outcome | None:
        """Shows the run until its end; returns None when the terminal is gone."""
        while True:
            self._stop_as_asked(view)
            ended = self._run.ended
            for look in self._looks.finish(LAST_LOOK) if ended else self._looks.new():
                self._seen = look.troubles
                view.update(look.events, look.attempts, look.outcome)
            self._tell([*self._seen, *self._looks.told(), *self._run.told()], view)
            if ended:
                return self._run.wait()
            if self._asked.hung_up and not self._hung_up:
                return None
            time.sleep(LOOK_EVERY)

    def _tell(self, troubles: list[str], view: View) -> None:
        """Says what is new of the troubles; when there is nothing new, which of them are over."""
        new = [line for line in troubles if line not in self._troubles]
        over = [line for line in self._troubles if line not in troubles]
        for line in new or [f"over: {line}" for line in over]:
            view.show(line)
        self._troubles = troubles

    @property
    def _is_local(self) -> bool:
        return self._run.draft.target == "local"

    def _in_vain(self) -> str:
        """What they are asked for in vain, in brackets."""
        told = self._run.told()
        return f" ({told[0]})" if told else ""

    def _stop_as_asked(self, view: View) -> None:
        """Cancels the run at the first request; at the second stops its local VMs, or leaves.

        SIGTERM comes to a laptop that is shut down, too: it does not end a run whose controller
        looks after it.
        """
        if self._asked.terminated and self._cancelling is None and self._run.looks_on:
            raise Left(
                "SW2142",
                f"this launch is stopped; run {self._run.id} goes on, and its controller looks "
                f"after it: swell attach {self._run.id} follows it, and swell cancel ends it",
            )
        if self._asked.count and self._cancelling is None:
            view.show(
                "cancelling the run; to leave one going, start it with: swell launch --detach"
            )
            reason = "cancelled by Ctrl-C or a signal"
            self._cancelling = _Task(lambda: self._run.cancel(reason))
            self._leave_told_by = time.monotonic() + SAY_AFTER
        if self._cancelling is not None and (error := self._cancelling.told()):
            view.show(f"the run could not be cancelled: {error}; Ctrl-C again leaves it")
        if time.monotonic() > self._leave_told_by and not self._run.ended:
            self._leave_told_by = float("inf")
            view.show(
                f"waiting for the end of its machines{self._in_vain()}; Ctrl-C again "
                f"{'stops them at once' if self._is_local else 'leaves them'}"
            )
        if self._asked.count > 1 and self._abandoning is None:
            if self._is_local:
                view.show("stopping at once")
            self._abandoning = _Task(self._run.abandon)
            self._left_by = time.monotonic() + ABANDON_LIMIT
        left = self._asked.count > 2 or (
            self._abandoning is not None
            and (self._abandoning.result is False or time.monotonic() > self._left_by)
        )
        if left and not self._run.ended:
            raise Left(
                "SW2052",
                f"left before the end of run {self._run.id}, which may still go on; "
                f"swell cancel {self._run.id} ends it",
            )


class _Task:
    """Something that may take long, done in a thread."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.result: object = None
        self._error: Exception | None = None
        self._work = work
        threading.Thread(target=self._do, name="swell-task", daemon=True).start()

    def told(self) -> Exception | None:
        """Returns why it failed, once."""
        error, self._error = self._error, None
        return error

    def _do(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:
            self._error = error


def see_through(start: Callable[[], Run], as_json: bool) -> str:
    """Starts a run, or goes on with one, and shows it until its end.

    Args:
        start: does so; raises what is wrong.
        as_json: print the final status to standard output, and all else to standard error.

    Returns the state it ended in. Raises what ``start`` raises, what kept the launcher from seeing
    the run through, and Left.
    """
    with stops() as asked:
        run = start()  # Ctrl-C ends it
        asked.interrupt = False

        def gone(error: OSError) -> None:
            if not asked.hung_up:
                said = (
                    f"nobody takes the output any more ({error.strerror}); run {run.id} goes on, "
                    f"and swell status {run.id} shows it"
                )
                with suppress(OSError):
                    os.write(2, visible(f"swell: {said}\n").encode())

        out = Outlet(sys.stderr if as_json else sys.stdout, gone)
        status = Outlet(sys.stdout, gone) if as_json else None
        following = Following(run, out, asked)
        with handled_here():
            state = following.follow()
        asked.interrupt = True
        with suppress(KeyboardInterrupt):  # how it ended is known, if not to everybody
            following.summarise(status)
            for one in filter(None, (out, status)):
                one.drain()
        return state
