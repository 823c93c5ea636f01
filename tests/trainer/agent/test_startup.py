"""A replica that cannot take part says why where its run's user looks, and in its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.agent import startup
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.names import ENV_ATTEMPT, ENV_RUN_DIR, EXIT_FAILED, RUN

CLUSTER = {
    "cluster": {"workerpool0": ["a"], "workerpool1": ["b", "c"]},
    "task": {"type": "workerpool1", "index": 1},
}
TASK = {"program": {"task": "a:B"}}
OF_NOBODY = "SWELL_TOKEN or SWELL_TOKEN_SECRET must be set: swell launch does it [SW4006]"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    directory = RunDirectory(str(tmp_path / "run"))
    monkeypatch.setenv(ENV_RUN_DIR, directory.url)
    monkeypatch.setenv(ENV_ATTEMPT, "2")
    monkeypatch.setenv("CLUSTER_SPEC", json.dumps(CLUSTER))
    return directory


def told(directory: RunDirectory) -> list[tuple[Any, ...]]:
    events = [one for one in read_events(directory) if one["event"] == "agent_failed"]
    return [(one["member"], one["attempt"], one["reason"]) for one in events]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": "r", "format": 2}, "run.json has no settings; launch the run again [SW4012]"),
        ({"id": "r", "format": 2, "settings": TASK}, OF_NOBODY),
    ],
)
def test_what_keeps_a_replica_from_beginning_is_on_record(
    run_dir: RunDirectory,
    capfd: pytest.CaptureFixture[str],
    record: dict[str, Any],
    reason: str,
) -> None:
    run_dir.write_json(RUN, record)
    assert startup.main() == EXIT_FAILED
    assert told(run_dir) == [("workerpool1-1", 2, reason)]
    assert f"swell-agent: {reason}" in capfd.readouterr().err


def test_a_fault_of_the_agent_itself_is_on_record_and_has_its_traceback(
    run_dir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("by pear")

    monkeypatch.setattr(startup, "serve", fails)
    with pytest.raises(ZeroDivisionError):
        startup.main()
    what = "its agent has failed: ZeroDivisionError: by pear"
    assert told(run_dir) == [("workerpool1-1", 2, what)]


def test_settings_that_an_image_does_not_know_end_the_run_with_the_remedy(
    run_dir: RunDirectory,
) -> None:
    """The image is older than the launcher."""
    run_dir.write_json(RUN, {"id": "r", "format": 2, "settings": {**TASK, "newest": 1}})
    assert startup.main() == EXIT_FAILED
    outcome = run_dir.outcome()
    assert outcome and outcome["state"] == "failed"
    assert "does not know: ['newest']: update the image (container.image)" in outcome["reason"]
