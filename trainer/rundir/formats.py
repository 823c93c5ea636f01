"""Formats: the numbers in what one version of Swell writes and another may read.

Launcher, image and run directory may be of different versions. A number is raised when a reader
of the one before would take something new for what it is not. What such a reader would merely not
know, a further field or event, leaves the number alone. Who reads what, and what becomes of older
and newer ones: docs/architecture.md, "Versions that meet".

Some things are the same in every format. In run.json ``id``, ``target``, ``created``, ``by``,
``spec.project``, ``format`` and ``swell`` keep their names and meanings, and so does all of
``attempts/``: any version can cancel a run. A manifest's checksum is computed alike, so that a
newer one is told from a damaged one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

from trainer.rundir.usererror import UserError

ANOTHER_VERSION = "SW2026"  # the message that another version of Swell is needed


class FormatError(UserError, ValueError):
    """Something that another version of Swell wrote, and this one cannot use. One line.

    It says what there is and what is known here. Whoever catches it knows which side to update.

    Attributes:
        newer: whether it is this side that is too old.
    """

    def __init__(self, text: str, *, newer: bool = True, id: str = ANOTHER_VERSION) -> None:
        super().__init__(id, text)
        self.newer = newer


@dataclass(frozen=True)
class Format:
    """The format of one kind of file.

    Attributes:
        number: of what is written.
        unmarked: of a file that has no number.
    """

    number: int
    unmarked: int = 1

    def stamp(self) -> dict[str, Any]:
        """Returns what a file says about itself: its format, and which Swell wrote it."""
        return {"format": self.number, "swell": version()}

    def found(self, value: Mapping[str, Any], where: str) -> int:
        """Returns the format of what was read from ``where``.

        Raises FormatError when it is newer than what is known, ValueError when it is no format.
        """
        found = value.get("format", self.unmarked)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise ValueError(f"{where} is damaged: {str(found)[:20]!r} is no format")
        if found > self.number:
            raise FormatError(
                f"{where} is of format {found}, written by Swell {written_by(value)}; "
                f"Swell {version()} knows up to {self.number}"
            )
        return found


# run.json.
#   1  has no number; `settings` are flat, such as checkpoint_every.
#   2  settings are nested (trainer.protocol.session), `swell` says who wrote them.
RUN = Format(2)
RUN_GOES_ON = 2  # the oldest that agents take, and that swell attach goes on with

# events/: the first line of a batch, {"format": 2, "swell": "0.1.0"}. For all writers alike.
#   1  has no such line; `leader_changed` has its term as `epoch`.
#   2  has it as `term`.
EVENTS = Format(2)

# events/index, events/segments and events/gists, with the same numbers: who knows events up to 2
# does not know of them, and finds a writer of a newer format there.
#   3  is the first (trainer.rundir.segments).
SEGMENTS = Format(3)

# checkpoints/*/manifest.json.
#   1, 2  were never in use.
#   3     `about` has the leader's term as `leader_term`, at first as `leader_epoch`.
#   4     the skeleton has numbers that are not finite by their names.
MANIFEST = Format(4)

# What an agent says first to its coordinator (Hello in trainer/protocol/swell.proto). Two that
# differ do not work together. It also stands for what the ranks of one world exchange.
#   0  says nothing about it.
#   1  says so.
#   2  failures say whose fault they may be, Stopped why; what ranks tell each other when a world
#      begins, and with each step, has grown.
#   3  what an Elastic Horovod script raises is a kind of failure of its own.
#   4  ranks tell each other with each step what they spend their time on; Hello says how old an
#      agent is.
#   5  ranks tell each other, when a world begins, what their data is like, and with each step what
#      they spent on that one; agents say what their machines do, for which a leader of before ends
#      their streams, and profile steps that somebody wants to see.
PROTOCOL = 5


def require_usable(run: Mapping[str, Any], where: str) -> None:
    """Raises FormatError, with ``newer`` as it is, unless a run of this run.json can go on here."""
    found = RUN.found(run, where)
    if found < RUN_GOES_ON:
        raise FormatError(
            f"{where} is of format {found}, of an older Swell; "
            f"Swell {version()} goes on with runs from format {RUN_GOES_ON} on",
            newer=False,
        )


# What to do about a newer format, for whoever raises an error of what reads it.
UPDATE_IMAGE = "update the image (container.image)"
UPDATE_LAUNCHER = "update Swell on this machine"


@cache
def version() -> str:
    """The version of this Swell; "(unknown)" where it runs without being installed."""
    try:
        return version_of("swell")
    except PackageNotFoundError:
        return "(unknown)"


def written_by(value: Mapping[str, Any]) -> str:
    """The version of Swell that wrote a file; "(unknown)" where it does not say."""
    writer = value.get("swell")
    known = isinstance(writer, str) and 0 < len(writer) <= 40 and writer.isprintable()
    return str(writer) if known else "(unknown)"
