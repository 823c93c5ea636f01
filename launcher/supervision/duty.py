"""What whoever looks after a run does besides: it says so, and sees to the run's controllers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from launcher.supervision.attendance import Attendance, Relieved
from launcher.supervision.staff import Staff
from trainer.rundir.retry import may_pass


class Duty:
    """What a supervisor asks before every decision: whether it may act.

    Args:
        attendance: by which it says that it is there; None for one that does not.
        staff: the run's controllers; None for a run without.
        is_controller: whether this is one of them, and others may relieve it.
        every: seconds between two looks at the controllers.
        wait: seconds after which one that may not act asks again.
        ticks: returns seconds that pass alike.
    """

    def __init__(
        self,
        attendance: Attendance | None = None,
        staff: Staff | None = None,
        *,
        is_controller: bool = False,
        every: float = 0.0,
        wait: float = 0.0,
        ticks: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._attendance, self._staff = attendance, staff
        self._is_controller = is_controller
        self._every, self._wait, self._ticks = every, wait, ticks
        self._looked: float | None = None

    def turn(self, run_has_ended: bool) -> float:
        """Returns for how many seconds this one may not act; 0 if it may.

        Raises Relieved when it is to end, and what ``Staff.turn`` raises.
        """
        if self._attendance is None:
            return 0.0
        if self._staff is not None:
            if self._looked is None or self._ticks() - self._looked >= self._every:
                self._staff.turn(run_has_ended)
                self._looked = self._ticks()
            else:
                self._attendance.look(self._staff.over)
        if not self._is_controller:
            with suppress(OSError):  # a launch that cannot say that it is there acts all the same
                self._attend(self._attendance, begin=not run_has_ended)
            return 0.0
        self._attend(self._attendance)
        try:
            return 0.0 if self._attendance.may_act() else self._wait
        except Relieved:
            self.end()
            raise

    def usd(self, now: float) -> float | None:
        """What the run's controllers have cost until ``now``, in Unix seconds."""
        return self._staff.usd(now) if self._staff else 0.0

    @property
    def is_done(self) -> bool:
        """Whether nothing of the run's controllers is left, but of this one."""
        return self._staff is None or self._staff.others_are_over

    def end(self) -> None:
        """Says that this one does not act any more, as far as the run directory takes it."""
        if self._attendance is not None:
            try:
                self._attendance.leave()
            except OSError as error:
                if not may_pass(error):
                    raise

    def close(self) -> None:
        """Writes down that this controller's work is done, as far as the run directory takes it."""
        if self._staff is not None:
            with suppress(OSError):
                self._staff.end_own()

    def _attend(self, attendance: Attendance, begin: bool = True) -> None:
        if begin:
            attendance.begin()
        attendance.beat()
