"""What runs have seen of how machines are taken: ``SWELL_HOME/probes/seen-RUN.json``.

A probe cannot provoke it (launcher.probed). So whoever looks after a run to its end writes down
what its events tell, and ``swell plan`` shows it for jobs of the same API, project and regions.
What follows on what is told by one leader's events, whose times are of one clock until another
leads. A replica that leaves because its run has ended, or its CustomJob was cancelled, was not
taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from launcher.probed import FOLDER, LIMIT
from launcher.records import STRICT, EventRecord, read_record
from launcher.status.losses import job_of
from launcher.words import count
from trainer.rundir.private import make_private, write_private
from trainer.rundir.untrusted import parse_json

PREFIX = "seen-"
NOTICES = {"SIGTERM": "sigterm", "preemption notice": "metadata"}
SOON = 120.0  # seconds in which a world forms after a loss, or the CustomJob ends by it
MOST = 20  # of which times are kept
TAKEN = frozenset({"stockout", "preempted"})


@dataclass(frozen=True, config=STRICT)
class Sightings:
    """What one run has seen.

    Attributes:
        run: its id.
        at: when it ended, in Unix seconds.
        endpoints: base URLs of the APIs that it used.
        project: its project.
        sigterm: how many replicas learned by SIGTERM that they would be taken.
        metadata: how many learned it from the metadata server.
        silent: how many were gone without notice.
        survived: how often others of the same CustomJob trained on after that.
        ended: how often their CustomJob ended instead, within two minutes.
        cut: seconds from a notice to the loss of replicas that had not left by then: the grace that
            they really had.
        back: seconds after which replicas came again, under their old names.
    """

    run: str = ""
    at: float = 0.0
    endpoints: list[str] = field(default_factory=list)
    project: str = ""
    sigterm: int = 0
    metadata: int = 0
    silent: int = 0
    survived: int = 0
    ended: int = 0
    cut: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)

    @property
    def any(self) -> bool:
        """Whether a machine was taken at all."""
        return bool(self.sigterm or self.metadata or self.silent)

    def keep(self, home: Path) -> None:
        """Writes it. Raises OSError."""
        path = home / FOLDER / f"{PREFIX}{self.run}.json"
        make_private(path.parent)
        write_private(path, json.dumps(asdict(self), indent=2))

    def in_words(self) -> str:
        """What it has seen, in a line."""
        day = time.strftime("%Y-%m-%d", time.localtime(self.at))
        ways = [
            (self.sigterm, "after SIGTERM"),
            (self.metadata, "after a word of the metadata server"),
            (self.silent, "without notice"),
        ]
        taken = ", ".join(f"{number} {how}" for number, how in ways if number)
        total = count(sum(number for number, _ in ways), "replica")
        said = [f"{total} taken away ({taken})"]
        if self.survived or self.ended:
            times = f"{self.survived} of {self.survived + self.ended} times"
            said.append(f"the others of its job trained on {times}")
        if self.cut:
            said.append(f"cut off {min(self.cut):.0f} s after a notice at the earliest")
        if self.back:
            said.append(f"{count(len(self.back), 'replica')} came back by {max(self.back):.0f} s")
        return f"seen by run {self.run} on {day}: {'; '.join(said)}"


def seen_in(blank: Sightings, events: Iterable[dict[str, Any]]) -> Sightings:
    """Returns what a run's events tell.

    Args:
        blank: which run, and where.
        events: its events; those that are not of the documented form tell nothing.
    """
    records = sorted((EventRecord.of(it) for it in events), key=lambda it: it.time)
    notices: dict[tuple[str, str], EventRecord] = {}  # by member and incarnation
    gone: list[EventRecord] = []
    cut: list[float] = []
    for it in records:
        if it.member is None or _sent_away(it, records):
            continue
        one = it.member, it.incarnation or ""
        if it.event == "drain" and it.reason in NOTICES and one not in notices:
            notices[one] = it
            gone.append(it)
        elif it.event == "loss" and it.gone:
            if (told := notices.get(one)) is not None:
                cut.append(round(it.time - told.time, 1))
            else:
                gone.append(it)
    reasons = [NOTICES[str(it.reason)] for it in notices.values()]
    fates = [_fate(it, records) for it in gone]
    back = [seconds for it in gone if (seconds := _came_back(it, records)) is not None]
    return replace(
        blank,
        sigterm=reasons.count("sigterm"),
        metadata=reasons.count("metadata"),
        silent=len(gone) - len(notices),
        survived=fates.count("survived"),
        ended=fates.count("ended"),
        cut=cut[:MOST],
        back=back[:MOST],
    )


def _sent_away(gone: EventRecord, records: Sequence[EventRecord]) -> bool:
    """Whether a replica left because its run was over, or its CustomJob was to end."""
    job = job_of(str(gone.member))
    for it in records:
        if it.event == "finished" and it.time <= gone.time:
            return True
        mine = job in (None, it.attempt)
        if it.event == "attempt_replaced" and it.time <= gone.time and mine and job is not None:
            return True
        cancelled = it.event == "attempt_ended" and it.verdict == "cancelled" and mine
        if cancelled and 0 <= it.time - gone.time <= SOON:
            return True
    return False


def _fate(gone: EventRecord, records: Sequence[EventRecord]) -> str:
    """What became of the others of a replica's CustomJob: survived, ended, or nobody knows."""
    member = str(gone.member)
    job = job_of(member)
    for it in records:
        if not gone.time <= it.time <= gone.time + SOON:
            continue
        if it.event == "generation_formed" and it.cause in ("drain", "loss", "break"):
            others = [one for one in it.members or () if one != member and job_of(one) == job]
            if others:
                return "survived"
        if it.event == "attempt_ended" and it.verdict in TAKEN and job in (None, it.attempt):
            return "ended"
    return ""


def _came_back(gone: EventRecord, records: Sequence[EventRecord]) -> float | None:
    """After how many seconds the same replica came again; not another CustomJob's."""
    for it in records:
        if it.time < gone.time:
            continue
        if it.event == "attempt_started" and job_of(str(gone.member)) is None:
            return None  # of a run of one job at a time: from here on it is another one's
        again = it.member == gone.member and it.incarnation != gone.incarnation
        if it.event == "member_joined" and again:
            return round(it.time - gone.time, 1)
    return None


def read_sightings(home: Path, project: str, endpoints: Iterable[str]) -> list[Sightings]:
    """Returns what runs have seen there, the newest first."""
    wanted, found = {*endpoints}, []
    for path in sorted((home / FOLDER).glob(f"{PREFIX}*.json")):
        with suppress(OSError, ValueError):
            if path.stat().st_size <= LIMIT:
                record = parse_json(path.read_bytes())
                found.append(read_record(Sightings, record if isinstance(record, dict) else {}))
    there = (it for it in found if it.any and it.project == project and wanted & {*it.endpoints})
    return sorted(there, key=lambda it: -it.at)
