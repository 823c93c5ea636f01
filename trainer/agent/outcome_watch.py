"""How a replica learns from the run directory that the run has ended, or is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import EXIT_FAILED, EXIT_OK, UNSAVED
from trainer.rundir.usererror import Message

POLL = 2.0  # seconds


class RunEnded(Exception):
    """The run has ended."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def exit_code_of(state: str) -> int:
    """What an agent's process returns when its run has ended so."""
    return EXIT_FAILED if state == "failed" else EXIT_OK


class OutcomeWatch:
    """Watches outcome.json, and stop.json, with which the launcher asks for an end.

    Args:
        run_dir: the run directory.
        drain: called once, with the reason, when the run is to stop: this replica is to leave the
            world. When the last have left, one of them writes a checkpoint; its agent says so.
    """

    def __init__(self, run_dir: RunDirectory, drain: Callable[[str], None]) -> None:
        self._run_dir = run_dir
        self._drain = drain
        self._hurry = asyncio.Event()
        self._stop: str | None = None

    def look_now(self) -> None:
        """Has it look at once: something hints at the end of the run."""
        self._hurry.set()

    async def watch(self) -> None:
        """Watches for ever. Raises RunEnded when the run has ended."""
        while True:
            timer = asyncio.get_running_loop().call_later(POLL, self._hurry.set)
            await self._hurry.wait()
            timer.cancel()
            self._hurry.clear()
            with suppress(OSError, ValueError):
                outcome = await asyncio.to_thread(self._run_dir.outcome)
                if outcome is not None:
                    raise RunEnded(str(outcome.get("state")), str(outcome.get("reason")))
                stop = await asyncio.to_thread(self._run_dir.stop_asked)
                if stop is not None and self._stop is None:
                    self._stop = str(stop.get("reason"))
                    self._drain(f"the run is to stop: {self._stop}")

    async def saved(self, step: int, unsaved: str) -> str | None:
        """A worker here has saved its state of ``step`` between two worlds: the run may end now.

        Or it could not, which ``unsaved`` tells. Returns why the run has ended, if this has ended
        it.
        """
        if self._stop is None:
            return None
        why = self._stop
        if unsaved:
            lost = f"the end of the run, step {step:,}, is not saved: {unsaved}; "
            remedy = "swell checkpoints says what there is to go on from, with --from"
            why = f"{why}\n{Message(UNSAVED, lost + remedy)}"
        with suppress(OSError):  # then the launcher ends the run, some minutes later
            if await asyncio.to_thread(self._run_dir.end, "limited", why):
                return why
        return None
