"""What a dashboard may do about a run: cancel it, and take a local VM away. Nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from launcher.report import page
from launcher.words import at_clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.usererror import UserError, shown

KEPT = 5  # of what was done about a run, the newest


class Acts:
    """What was asked for on pages, and what came of it.

    Args:
        cancel: ends a run, and returns what to tell; may take a minute.
        preempt: takes the VM of a run's replica away, with the notice that is given, as ``5s``, or
            without; returns what to tell.
        clock: Unix seconds.
    """

    def __init__(
        self,
        cancel: Callable[[RunDirectory], str],
        preempt: Callable[[RunDirectory, str, str | None], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cancel = cancel
        self._preempt = preempt
        self._clock = clock
        self._told: dict[str, list[str]] = {}

    def cancel(self, run_id: str, directory: RunDirectory) -> None:
        """Ends a run; what comes of it is told on its page."""
        self._do(run_id, "cancelling the run", lambda: self._cancel(directory))

    def preempt(
        self, run_id: str, directory: RunDirectory, replica: str, notice: str | None
    ) -> None:
        """Takes a VM away; what comes of it is told on the run's page."""
        self._do(
            run_id,
            f"taking {replica} away",
            lambda: self._preempt(directory, replica, notice),
        )

    def told(self, run_id: str) -> str:
        """Returns what was done about a run, as HTML: the newest last."""
        lines = self._told.get(run_id, [])
        told = "".join(f"<li>{page.text_of(line, 1000)}</li>" for line in lines)
        return f'<div role="status"><ul class="note">{told}</ul></div>' if told else ""

    def _do(self, run_id: str, what: str, work: Callable[[], str]) -> None:
        self._tell(run_id, f"{what}…")

        def do() -> None:
            try:
                said = work()
            except Exception as error:  # whoever asked for it hears of it, whatever it is
                text = shown(error) if isinstance(error, UserError | OSError) else repr(error)
                said = f"{what} has failed: {text}"
            for line in said.splitlines():
                self._tell(run_id, line)

        threading.Thread(target=do, name="swell-act", daemon=True).start()

    def _tell(self, run_id: str, line: str) -> None:
        at = at_clock(self._clock())
        self._told[run_id] = [*self._told.get(run_id, []), f"{at} {line}"][-KEPT:]
