"""What the replicas of an attempt that failed have said last, for those who do not read its logs.

An agent that cannot begin, or has failed itself, says why in an event (``agent_failed``). What ends
before there is an agent, as an image without one, leaves no more than its log: its last line is
shown of a run on this machine, and for others where it is to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from launcher import home
from launcher.logs.reader import local_line
from launcher.records import EventRecord
from launcher.words import one_line
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

MOST = 3  # replicas that are quoted
TAIL = 2**16  # bytes of a log that are looked at
_REPLICA = re.compile(r"\b(?:workerpool\d|chief|service)-\d+\b")


def last_words(directory: RunDirectory, run_id: str, attempt: int, job: str, reason: str) -> str:
    """Returns lines to follow why an attempt failed; nothing where the run's outcome says why.

    Args:
        directory: the run's.
        run_id: the run.
        attempt: its number.
        job: its CustomJob.
        reason: why it failed, in the API's words.

    Raises OSError and ValueError where the run directory cannot be read.
    """
    if directory.outcome() is not None:
        return ""
    if said := list(dict.fromkeys(_told(directory, attempt))):
        return "\n".join(said[:MOST])
    found = _REPLICA.search(reason)
    if found is None:
        return ""
    log = home.local_folder(run_id) / "logs" / job.rpartition("/")[2] / f"{found[0]}.jsonl"
    last = _last_line(log)
    quoted = f"{found[0]} printed last: {last}\n" if last else ""
    return f"{quoted}swell logs {run_id} --replica {found[0]} has all that it printed"


def _told(directory: RunDirectory, attempt: int) -> Iterator[str]:
    for event in read_events(directory, brief=True):
        record = EventRecord.of(event)
        if record.event == "agent_failed" and record.attempt == attempt and record.reason:
            yield f"{record.member or 'a replica'}: {record.reason}"


def _last_line(log: Path) -> str:
    """The last line that says something; empty without one."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            lines = file.read().splitlines()
    except OSError:  # on Vertex AI there is no such file
        return ""
    found = (local_line(line, "") for line in reversed(lines))
    return next((one_line(it.message) for it in found if it and it.message.strip()), "")
