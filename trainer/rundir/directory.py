"""The run directory: the one thing that lasts, and that launcher and trainer share. The layout::

run.json                      the spec as launched, the run token's hash, who and when, its format
attempts/0003.json            one submitted CustomJob: name, region, state, why it ended
controllers/0001.json         one controller's CustomJob (see launcher.supervision.controllers)
attendants/000012.json        who looks after the run (see launcher.supervision.attendance)
wanted/000002.json            what a fleet is to be from now on (see trainer.rundir.wanted)
leader/000007.json            exclusive-create objects; the highest number is the term
events/<writer>/<seq>.jsonl   what happened, in batches (see trainer.rundir.events)
events/{index,segments,gists}/    the same of before, put together (see trainer.rundir.segments)
audit/<writer>.jsonl          sample ids that each worker contributed (only when asked for);
                              on an object store audit/<writer>/<seq>.jsonl
code/<sha256>.tar.gz          the user's code (see trainer.rundir.bundle)
checkpoints/step-000001200/   shards and manifest.json; no manifest, no checkpoint
rollbacks.json                which steps are left out since the run has gone back to a checkpoint
logs/                         TensorBoard event files (see trainer.telemetry.board)
told/000007.json              how far these have come, and trackers (trainer.telemetry.position)
profiles/                     steps that somebody wants to see in detail, and what was seen
stacks/                       what the workers of a world did that came to no step
stop.json                     written once: the run is to save a checkpoint and to end
outcome.json                  written once: how the run ended, and why
.spare-outcome.json           on a disk: room for that, however full it is then
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from trainer.rundir import formats
from trainer.rundir.exclusive import create_exclusive, encode
from trainer.rundir.names import JSON_LIMIT, OUTCOME, RUN, STOP, OutcomeState
from trainer.rundir.untrusted import parse_json
from trainer.rundir.usererror import Unusable

if TYPE_CHECKING:
    from trainer.rundir.store import Store

DAMAGED = "SW2025"  # the message about a file of a run directory that cannot be understood


class RunDirectory:
    """The durable truth of one run.

    Args:
        url: any fsspec URL, or a local path.
        fs: the fsspec file system to use; by default the URL's.
    """

    def __init__(self, url: str, fs: Any = None) -> None:
        from trainer.rundir.store import (
            Store,  # fsspec is slow to import; most need only the names here
        )

        self.store: Store = Store(url, fs)
        self.url = self.store.url

    def read_json(self, name: str, limit: int | None = None) -> dict[str, Any]:
        """Returns the JSON object in ``name``, of ``limit`` bytes at most, or JSON_LIMIT.

        Raises FileNotFoundError, and ValueError when the file is too large, is not
        JSON, or is not an object.
        """
        data = self.store.read(name, JSON_LIMIT if limit is None else limit)
        try:
            value = parse_json(data)
        except ValueError as error:
            raise Unusable(DAMAGED, f"{self.url}/{name} is damaged: {error}") from None
        if not isinstance(value, dict):
            raise Unusable(DAMAGED, f"{self.url}/{name} does not hold a JSON object")
        return value

    def find_json(self, name: str) -> dict[str, Any] | None:
        """Like ``read_json``, with None for a file that does not exist."""
        try:
            return self.read_json(name)
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Writes ``value`` to ``name``, replacing what was there."""
        self.store.write(name, encode(value))

    def create_json(self, name: str, value: dict[str, Any]) -> bool:
        """Writes ``value`` to ``name`` unless it exists. Returns whether this call created it.

        The file says in ``owner`` which call that was: see trainer.rundir.exclusive.
        """
        return create_exclusive(self.store, name, value)

    def run(self) -> dict[str, Any]:
        """Returns run.json: ``{"id", "spec", "settings", "authority_sha256", "created", "by", …}``.

        Of the formats that are known, this one returns each as it is. Raises FormatError for a
        newer one, and what ``read_json`` raises.
        """
        run = self.read_json(RUN)
        formats.RUN.found(run, f"{self.url}/{RUN}")
        return run

    def outcome(self) -> dict[str, Any] | None:
        """Returns outcome.json, or None while the run has not ended."""
        outcome = self.find_json(OUTCOME)
        return None if outcome is None else _upgraded(outcome)

    def ask_to_stop(self, state: OutcomeState, reason: str) -> bool:
        """Asks the run to save a checkpoint and to end in ``state``. Returns whether it was new."""
        return self.create_json(STOP, {"state": state, "reason": reason, "time": time.time()})

    def stop_asked(self) -> dict[str, Any] | None:
        """Returns stop.json, or None while nobody has asked the run to stop."""
        return self.find_json(STOP)

    def end(
        self,
        state: OutcomeState,
        reason: str,
        *,
        term: int | None = None,
        metrics: dict[str, float] | None = None,
    ) -> bool:
        """Writes outcome.json unless it exists. Returns whether this call ended the run.

        Args:
            state: how the run ended.
            reason: one line for the user; a traceback may follow on further lines.
            term: the leader's, when the leader ends the run.
            metrics: the final metrics, by name.
        """
        return self.create_json(
            OUTCOME,
            {
                "state": state,
                "reason": reason,
                "term": term,
                "metrics": metrics or {},
                "time": time.time(),
            },
        )


def _upgraded(outcome: dict[str, Any]) -> dict[str, Any]:
    """An outcome.json that an older version wrote, in the form of this one."""
    if "epoch" in outcome:
        outcome["term"] = outcome.pop("epoch")
    return outcome
