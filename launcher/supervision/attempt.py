"""An attempt: one CustomJob of a run, as ``attempts/0001.json`` has it.

The record is created exclusively before the CustomJob is, by whoever will submit it, and nobody
else submits it. It is rewritten as the CustomJob goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic.dataclasses import dataclass

from launcher.records import STRICT, read_record
from trainer.rundir.attempts import ENDED
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ATTEMPTS

SUBMITTING = "SUBMITTING"
UNREACHABLE = "unreachable"  # the kind of one that others do not reach
APART = "SW5011"  # the message about such
UNSENT = "unsent"  # the kind of a refusal: its launcher ended before it sent the request


@dataclass(frozen=True, config=STRICT)
class Attempt:
    """One CustomJob of the run. Times are Unix seconds.

    Attributes:
        attempt: its number, from 1.
        region: where it was sent.
        endpoint: base URL of the API.
        choice: which of the run's choices it is, in words (see launcher.supervision.choices).
        job: projects/P/locations/L/customJobs/ID, once that is known.
        state: of the CustomJob, or SUBMITTING, REFUSED, LOST.
        reason: why it ended, in the API's words.
        told: what its replicas said last of why they failed, on lines of its own.
        code: of the CustomJob's error (google.rpc.Code), or the HTTP status of a refusal.
        kind: of a refusal (see launcher.api.apierror), "unsent", "unreachable", or "replaced".
        left: why it was given up, before it had its machines or had trained; empty if it was not.
        created: when the record was.
        submitted: when the API had taken it.
        started: when all its replicas were up for the first time.
        ended: when it was over.
        step: steps that the run had completed then.
        trained: how many of them with a worker of this attempt; None when that is not known.
        usd_per_hour: what its machines cost, estimated; None when that is not known.
        beside: whether it is tried beside a dear one, which goes on if it comes to nothing.
    """

    attempt: int = 0
    region: str = ""
    endpoint: str = ""
    choice: str = ""
    job: str | None = None
    state: str = SUBMITTING
    reason: str = ""
    told: str = ""
    code: int = 0
    kind: str = ""
    left: str = ""
    created: float = 0.0
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    step: int = 0
    trained: int | None = None
    usd_per_hour: float | None = None
    beside: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing of this attempt can still run."""
        return self.state in ENDED

    @property
    def story(self) -> str:
        """Why it ended, with all that is known."""
        why = self.reason or f"the CustomJob ended {self.state}"
        return f"{why}\n{self.told}" if self.told else why

    @property
    def sent(self) -> bool:
        """Whether the API was asked for it, as far as anybody knows."""
        return self.kind != UNSENT

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Attempt:
        """Returns the attempt of a record; what is not as it should be is left at its default."""
        return read_record(cls, record)

    def to_json(self) -> dict[str, Any]:
        """Returns the record."""
        return asdict(self)


def read_attempts(run_dir: RunDirectory) -> list[dict[str, Any]]:
    """Returns the records of a run's attempts in their order, with every field as it should be."""
    names = [name for name in run_dir.store.names(ATTEMPTS) if name.endswith(".json")]
    records = run_dir.store.each(run_dir.read_json, [f"{ATTEMPTS}/{name}" for name in names])
    return [Attempt.from_json(record).to_json() for record in records]
