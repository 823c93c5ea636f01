"""A run that its controller looks after: what is left for a launch to do, which looks on.

It sends the controller, and another when none is alive; what the run itself needs, a controller
does. When the run has ended, it sees to it that nothing is left. If no controller can be had, it
looks after the run itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launcher.supervision.staff import Staff
from launcher.supervision.supervisor import HOLD, Supervisor
from launcher.target import Target
from trainer.rundir.directory import RunDirectory
from trainer.rundir.retry import may_pass
from trainer.rundir.usererror import Message

NO_CONTROLLER = "SW2034"  # the message that none can be had


class Entrusted:
    """Looks on while a controller looks after a run.

    Args:
        run_dir: the run.
        staff: its controllers.
        supervisor: for what a controller does not do.
        target: where its CustomJobs go.
        alone: called when this one begins to look after the run itself.
        sleep: waits for so many seconds, or less.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        staff: Staff,
        supervisor: Supervisor,
        target: Target,
        alone: Callable[[], object],
        sleep: Callable[[float], object],
    ) -> None:
        self._run_dir, self._staff, self._supervisor = run_dir, staff, supervisor
        self._target, self._alone, self._sleep = target, alone, sleep

    def lose_patience(self) -> None:
        """See Supervisor."""
        self._supervisor.lose_patience()

    def told(self) -> list[str]:
        """See Supervisor."""
        told = [self._staff.silence] if self._staff.silence else []
        if self._staff.trouble:
            said = f"no controller can be had: {self._staff.trouble}"
            told.append(str(Message(NO_CONTROLLER, f"{said}; this launch looks after the run")))
        return [*told, *self._supervisor.told()]

    def run(self) -> dict[str, Any]:
        """Sees the run through. Returns outcome.json as it counts; raises as Supervisor does."""
        if not self.look_on(until=lambda: False):
            self._alone()
        return self._supervisor.run()

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
