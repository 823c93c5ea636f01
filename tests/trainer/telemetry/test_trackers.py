"""Weights & Biases and MLflow, offline, read by their own readers; and a process that fails."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.telemetry.apart import Apart
from trainer.telemetry.curves import Point

POINTS = [
    Point(1, 100.0, {"train/loss": 3.0}),
    Point(2, 101.0, {"train/loss": 2.0}, {"drain": "**drain**"}),
    Point(3, 102.0, {"train/loss": float("nan")}),
    Point(2, 103.0, {"train/loss": 2.5}, again=True),
]


@pytest.fixture
def told() -> Iterator[list[Apart]]:
    """Those that are closed in the end, and whose processes have ended then."""
    made: list[Apart] = []
    yield made
    for one in made:
        process = one._process
        one.close()
        if process is not None:
            process.wait()


@pytest.mark.soak
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[Apart]) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for number, some in enumerate((POINTS[:2], POINTS[2:])):  # two leaders, one after the other
        one = Apart("wandb", "me/digits", "run-1", "digits")
        told.append(one)
        one.tell(some)
        process = one._process
        assert process is not None
        one.close()
        assert process.wait() == 0, number
    rows = [row for file in sorted(tmp_path.rglob("*.wandb")) for row in _history(file)]
    losses = [(row["step"], str(row["train/loss"])) for row in rows]
    assert losses == [(1, "3"), (2, "2"), (3, "nan"), (2, "2.5")]
    assert [row["events/drain"] for row in rows if "events/drain" in row] == ["**drain**"]


def _history(file: Path) -> list[dict[str, Any]]:
    """The rows of an offline run, by wandb's own messages; its only reader is not for Python."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for data in _records(file.read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {one.key or one.nested_key[0]: json.loads(one.value_json) for one in items}
            found.append(row)
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """A log of LevelDB's: blocks of 32 KiB, with pieces of records (checksum, length, kind)."""
    offset, record = 7, b""
    while offset + 7 <= len(data):
        if 32768 - offset % 32768 < 7:
            offset += 32768 - offset % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, offset + 4)
        record += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield record
            record = b""


@pytest.mark.soak
def test_mlflow_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[Apart]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for some in (POINTS[:2], POINTS[2:]):
        one = Apart("mlflow", str(tmp_path), "run-1", "digits")
        told.append(one)
        one.tell(some)
        one.close()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=str(tmp_path))
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in sorted(history, key=lambda it: it.timestamp)] == [
        (1, 3.0),
        (2, 2.0),
        (2, 2.5),
    ]
    assert run.data.tags["swell.events.drain"] == "**drain**"
    assert run.info.run_name == "run-1"
