"""A run that is watched: looked at again and again, until it is over."""

from __future__ import annotations

import time
from typing import TextIO

from launcher import home
from launcher.api.apierror import ApiError
from launcher.keys import Wait
from launcher.logs.newest import Newest
from launcher.status.status import ABANDONED, Outcome, is_abandoned, read_status
from launcher.supervision.attempt import read_attempts
from launcher.terminal import visible
from launcher.views.live import LiveView, PlainView, Scene
from launcher.views.output import Screen
from launcher.views.screens import Screens
from launcher.views.summary import print_summary
from launcher.views.watch import Panorama
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader
from trainer.rundir.usererror import shown

LOOK_EVERY = 0.5  # seconds
LINES = 2000  # of the log
REMOTE_LOOK_EVERY = 5.0  # on an object store, where each look is some requests


class Watched:
    """A run, as its directory shows it. Nothing is written there, and nobody is asked for more.

    Args:
        directory: the run's.

    Raises RunError when it is another version's, OSError when it cannot be read.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._run = home.read_run(directory)
        self.run_id = str(self._run["id"])
        job = home.job_of(self._run)
        jobs = job.fleet.jobs if job.is_fleet else 0
        self._scene = Scene(self.run_id, job.replicas(), float(self._run["created"]), jobs)
        self._reader = EventReader(directory, brief=True)
        self._log = Newest(directory, None, LINES)
        self._screens = Screens(keys=False)

    def follow(self, out: TextIO, wait: Wait, keys: bool = False) -> bool:
        """Shows the run until it is over, or a key leaves it. Returns whether it is over.

        Args:
            out: where; on a terminal a view, elsewhere a line for what happens.
            wait: waits for the next look, so many seconds; a key that is pressed comes before.
            keys: whether any can be pressed.
        """
        console = Screen(out)
        plain = not console.is_terminal or console.is_dumb_terminal
        self._screens = Screens(keys and not plain)
        with self._view(console, out, plain) as view:
            over = self._look_on(view, wait)
        if plain:
            print_summary(console, read_status(self._directory), self._directory.url, None)
        else:
            size = console.width, console.height
            console.print(Panorama().draw(self._scene, time.time(), *size))
        return over

    def _view(self, console: Screen, out: TextIO, plain: bool) -> LiveView | PlainView:
        if plain:
            return PlainView(lambda line: print(visible(line), file=out, flush=True), self._scene)
        return LiveView(
            console,
            self._scene,
            draw=lambda scene, now, width: self._screens.draw(scene, now, width, console.height),
        )

    def _wait(self, view: LiveView | PlainView, wait: Wait, seconds: float) -> bool:
        """Waits for the next look; returns whether there is to be one."""
        end = time.monotonic() + seconds
        key = wait(seconds)
        while key is not None:
            if not self._screens.press(key):
                return False
            self._read_log()
            if isinstance(view, LiveView):
                view.redraw()
            key = wait(max(0.0, end - time.monotonic()))
        return True

    def _read_log(self) -> None:
        """Reads the run's log, while it is shown."""
        if self._screens.name != "logs":
            return
        try:
            self._log.look()
        except (ApiError, OSError) as error:
            self._screens.log = shown(error)
            return
        told = self._log.why or ("" if self._log.lines else "Nothing was printed yet.")
        self._screens.log = told or [*self._log.lines]

    def _look_on(self, view: LiveView | PlainView, wait: Wait) -> bool:
        trouble = ""
        while True:
            try:
                outcome = self._directory.outcome()  # first: what is written last is seen, too
                abandoned = outcome is None and is_abandoned(self._run, self._directory)
                events, attempts = self._reader.read_new(), read_attempts(self._directory)
            except OSError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    view.show(f"{self._directory.url} cannot be read: {error}; looking again")
            else:
                trouble = ""
                view.update(events, attempts, Outcome.of(outcome) if outcome else None)
                if abandoned:
                    view.show(ABANDONED)
                if outcome or abandoned:
                    return True
            self._read_log()
            pause = LOOK_EVERY if self._directory.store.is_local else REMOTE_LOOK_EVERY
            if not self._wait(view, wait, pause):
                return False
