"""Whether a torchrun script that has failed is started once more. Pure.

A world whose processes fail is left, and another one forms. That helps against what passes: a
node's fault, a store that was away. It helps nobody whose script is wrong. So a world that fails by
itself, with no machine lost or given notice beside it, counts as a try; progress makes the count
begin anew. And a script that fails on every rank at once, all in the same way, is not tried again:
it cannot find what it imports, its arguments are wrong.
"""

from __future__ import annotations

from itertools import groupby

from trainer.protocol.signals import RankFailed
from trainer.rundir.usererror import Message

AT_ONCE = 60.0  # seconds; what has run for longer has got through its start
PATIENCE = 10.0  # seconds in which all ranks fail, if they fail at once
TOLD = 4  # tracebacks in the reason of an end


class Tries:
    """The tries of a run, and what became of the newest one.

    Args:
        max_restarts: how many worlds in a row may fail before the run has.

    Attributes:
        failures: of the newest world, by rank, the first one first.
    """

    def __init__(self, max_restarts: int) -> None:
        self.failures: dict[int, RankFailed] = {}
        self._most = max_restarts
        self._count = 0
        self._thrived = False  # whether any world has got further than its start
        self._size = 0
        self._since = 0.0  # when the first of them failed
        self._own = True  # whether the newest world fails by the script's fault, if it does

    def begin(self, size: int) -> None:
        """A world of ``size`` workers forms."""
        self.failures = {}
        self._size = size
        self._own = True

    def progress(self) -> None:
        """The script has got further than ever before."""
        self._count = 0
        self._thrived = True

    def excuse(self) -> None:
        """A machine of the newest world is lost or about to be, or the world is left on purpose."""
        self._own = False

    def fail(self, failure: RankFailed, now: float) -> None:
        """A rank of the newest world has failed."""
        if not self.failures:
            self._since = now
        self.failures.setdefault(failure.rank, failure)
        self._thrived |= failure.seconds > AT_ONCE

    def to_be_left(self, now: float) -> bool:
        """Whether the world is to be left for its failures.

        After one that fails at once others are waited for: if all do, nothing will help.
        """
        if not self.failures:
            return False
        all_failed = len(self.failures) >= self._size
        may_be_alike = not self._thrived and self._alike()
        return all_failed or not may_be_alike or now - self._since > PATIENCE

    def left(self) -> Message | None:
        """The newest world has been left. Returns why the run has failed with it, if it has."""
        if not self.failures or not self._own:
            return None
        if not self._thrived and len(self.failures) == self._size and self._alike():
            return Message("SW5020", f"the script fails at once on every rank\n{self._told()}")
        self._count += 1
        if self._count <= self._most:
            return None
        times = "once" if self._count == 1 else f"{self._count} times in a row"
        return Message("SW5021", f"the script has failed {times} without progress\n{self._told()}")

    def _alike(self) -> bool:
        ends = {(one.code, _last_line(one.reason)) for one in self.failures.values()}
        return len(ends) == 1 and all(one.code > 0 for one in self.failures.values())

    def _told(self) -> str:
        """What became of each rank; of ranks that failed alike, one traceback."""
        alike: dict[tuple[int, str], list[RankFailed]] = {}
        for one in self.failures.values():
            alike.setdefault((one.code, _last_line(one.reason)), []).append(one)
        parts = []
        for (code, _), ranks in list(alike.items())[:TOLD]:
            first = ranks[0]
            which = _ranges(sorted(one.rank for one in ranks))
            end = f"exit code {code}" if code >= 0 else f"signal {-code}"
            parts.append(f"{which} (first {first.member.replica}): {end}\n{first.reason.rstrip()}")
        if len(alike) > TOLD:
            parts.append(f"and {len(alike) - TOLD} more ways in which ranks failed")
        return "\n".join(parts)


def _last_line(reason: str) -> str:
    lines = reason.strip().splitlines()
    return lines[-1] if lines else ""


def _ranges(ranks: list[int]) -> str:
    """Ranks in words: rank 3, ranks 0-7, ranks 0-2, 5."""
    runs = [
        [rank for _, rank in group]
        for _, group in groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0])
    ]
    words = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(words)}"
