"""How far what is told of a run has come: ``told/000007.json``, by the leader of term 7.

Those are of TensorBoard's files; each tracker has its own, such as ``told/wandb-000007.json``, as
each may be away for a while. The highest term counts. Who leads next goes on from there: what was
told after it was written, and before its leader was lost, is told again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from trainer.rundir.batches import Event
from trainer.rundir.directory import RunDirectory
from trainer.rundir.seen import Seen
from trainer.telemetry.curves import Curves

TOLD = "told"
_FILE = re.compile(r"(?:([a-z]+)-)?([0-9]{6,12})\.json")


@dataclass
class Position:
    """What has been read of a run's events, and told.

    Attributes:
        seen: the batches that were read.
        late: events in them that are not told yet: others of the same time may still come.
        curves: how far the curves are.
    """

    seen: Seen = field(default_factory=Seen)
    late: list[Event] = field(default_factory=list)
    curves: Curves = field(default_factory=Curves)

    def write(self, run_dir: RunDirectory, term: int, who: str = "") -> None:
        """Writes it as that of a term, of a tracker if it has a name. Raises OSError."""
        value = {
            "seen": self.seen.to_json(),
            "late": self.late,
            "curves": self.curves.to_json(),
        }
        run_dir.write_json(_name(term, who), value)


def last_position(run_dir: RunDirectory, term: int, who: str = "") -> Position:
    """Where the leaders before a term have come to; the beginning if none has told anything.

    Args:
        run_dir: the run.
        term: the leader's who asks.
        who: the tracker; "" for TensorBoard's files.

    Raises OSError, and ValueError for one that is damaged.
    """
    found = (_FILE.fullmatch(name) for name in run_dir.store.names(TOLD))
    terms = [int(one[2]) for one in found if one and (one[1] or "") == who]
    newest = max((one for one in terms if one < term), default=None)
    value = None if newest is None else run_dir.find_json(_name(newest, who))
    return Position() if value is None else _parsed(value)


def _name(term: int, who: str) -> str:
    return f"{TOLD}/{who}-{term:06d}.json" if who else f"{TOLD}/{term:06d}.json"


def _parsed(value: dict[str, Any]) -> Position:
    late = value.get("late")
    if not isinstance(late, list) or not all(isinstance(one, dict) for one in late):
        raise ValueError("its events are none")
    return Position(Seen.from_json(value.get("seen")), late, Curves.from_json(value.get("curves")))
