"""A run that its controller looks after: what is left for a launch to do, which looks on.

It sends the controller, and another when none is alive; what the run itself needs, a controller
does. When the run has ended, it sees to it that nothing is left. If no controller can be had, or
none has looked after the run for ALONE, it looks after the run itself, beside those that may still
come: launches and controllers do not get into each other's way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from launcher.supervision.removal import Removal
from launcher.supervision.staff import Staff
from launcher.supervision.supervisor import HOLD, Supervisor
from launcher.target import Target
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import RUN
from trainer.rundir.retry import may_pass
from trainer.rundir.usererror import Message

NO_CONTROLLER = "SW2034"  # the message that none can be had
NOT_YET = "SW2140"  # the message that none has come yet, or that one is away
ALONE = 300.0  # seconds


class Entrusted:
    """Looks on while a controller looks after a run.

    Args:
        run_dir: the run.
        staff: its controllers.
        supervisor: for what a controller does not do.
        target: where its CustomJobs go.
        alone: called when this one begins to look after the run itself.
        sleep: waits for so many seconds, or less.
        ticks: returns seconds that pass alike.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        staff: Staff,
        supervisor: Supervisor,
        target: Target,
        alone: Callable[[], object],
        sleep: Callable[[float], object],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir, self._staff, self._supervisor = run_dir, staff, supervisor
        self._target, self._alone, self._sleep, self._ticks = target, alone, sleep, ticks
        self._removal = Removal(run_dir.url)
        self._away_since: float | None = None
        self._looks_on, self._acts = True, False

    @property
    def looks_on(self) -> bool:
        """Whether a controller looks after the run, and this one does not."""
        return self._looks_on and bool(self._staff.here)

    def lose_patience(self) -> None:
        """See Supervisor."""
        self._supervisor.lose_patience()

    def told(self) -> list[str]:
        """See Supervisor."""
        told = [self._staff.silence] if self._staff.silence else []
        if self._staff.trouble:
            said = f"no controller can be had: {self._staff.trouble}"
            told.append(str(Message(NO_CONTROLLER, f"{said}; this launch looks after the run")))
        elif self._acts and not self._staff.here and not self._staff.run_has_ended:
            said = f"no controller has looked after the run for {ALONE / 60:.0f} min"
            states = [f", and its CustomJob is {it.state}" for it in self._staff.records.values()]
            told.append(
                str(Message(NOT_YET, f"{said}{''.join(states[-1:])}; this launch does meanwhile"))
            )
        return [*told, *self._supervisor.told()]

    def run(self) -> dict[str, Any]:
        """Sees the run through. Returns outcome.json as it counts; raises as Supervisor does."""
        well = self.look_on(until=self._nobody_comes)
        self._looks_on = False
        if not well or self._acts:
            self._alone()
        return self._supervisor.run()

    def _nobody_comes(self) -> bool:
        """Whether no controller has been there for long."""
        now = self._ticks()
        if self._staff.here or self._away_since is None:
            self._away_since = now
        self._acts = now - self._away_since >= ALONE
        return self._acts

    def look_on(self, until: Callable[[], bool]) -> bool:
        """Has a controller be there until the run has ended, or ``until`` says that it is enough.

        Returns whether that went well; if not, no controller can be had.

        Raises ApiError when the API does not let it look, and OSError when the run directory is
        gone.
        """
        while True:
            try:
                if self._run_dir.outcome() is not None:
                    return True
                self._removal.look(self._run_dir.store.exists(RUN), self._ticks())
                if self._removal.told:  # the supervisor knows what comes of that
                    return True
                self._staff.turn(False)
            except OSError as error:
                if not may_pass(error):
                    raise
                self._sleep(max(self._target.poll, HOLD))
                continue
            if self._staff.trouble:
                return False
            if until():
                return True
            self._sleep(self._target.poll)
