"""A run directory that is removed while its run goes on. Pure.

No machine that comes then can join the run, and no other command finds it; its machines would cost
for ever. So it ends the run, once it is clear that the directory does not come back, as one does
that is mounted again.
"""

from __future__ import annotations

from trainer.rundir.names import RUN
from trainer.rundir.usererror import Message

REMOVED = "SW2031"  # the message about it
AWAY_FOR = 60.0  # seconds


class Removal:
    """Knows whether run.json is there.

    Args:
        url: of the run directory.

    Attributes:
        reason: why the run ends.
        told: what to say while it is not, once it was; else empty.
    """

    def __init__(self, url: str) -> None:
        what = f"{url} was removed while the run went on: it has no {RUN} any more"
        self.reason = str(Message(REMOVED, f"{what}; launch a new run"))
        self._said = str(
            Message(REMOVED, f"{what}; unless it is back within {AWAY_FOR:.0f} s, the run ends")
        )
        self._was_there = False
        self._since: float | None = None
        self.told = ""

    def look(self, there: bool, now: float) -> bool:
        """Returns whether it is gone for good.

        Args:
            there: whether it is there now.
            now: the time, in seconds that pass alike.
        """
        self._was_there |= there
        if there or not self._was_there:
            self._since, self.told = None, ""
            return False
        self._since, self.told = now if self._since is None else self._since, self._said
        return now - self._since >= AWAY_FOR
